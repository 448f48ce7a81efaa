// The outbox on the device, an IndexedDB a site: only where the page has said that its visitor agreed to it. It holds
// batches under their numbers (binary keys: sid, seq), each with the page that may send it, and for each page (string keys)
// when it last said that it lives. A page's batches are free for the next one once it has left, or been silent for LEASE_MS.
// Nothing here throws: what cannot be stored stays in memory.

const OUTBOX = 'outbox';
const LEASE_MS = 180_000; // three renewals, which a hidden page may run once a minute
const BATCHES_MAX = 64; // of all pages, 16 KiB each at most
const ANSWER_MS = 2_000; // a store that takes longer is none
export const NUMBER_BYTES = 20;
// What came of storing, for the core. UNSURE is for the caller, to try again: the batch is there but does not say that it was
// sent.
export const [ELSEWHERE, STORED, IN_MEMORY, UNSURE] = [0, 1, 2, 3];

const nameOf = (site) => 'tideline/' + site;

// Forgets what any page of the site has stored. Others that have it open are told and close it.
export const eraseStore = (site) => {
  try {
    indexedDB.deleteDatabase(nameOf(site));
  } catch {
    // There is none.
  }
};

// `revoked` is called when another page erases the store, or has while this one was in the back-forward cache.
export const openStore = (site, revoked) => {
  let page;
  let database;
  let opening;
  let opened; // before
  let leased = 0; // when the store last said that this page lives
  let count = 0; // of all pages' batches, about
  const known = new Map(); // numbers that this page has found there or stores, and whether that is done

  const open = () =>
    (opening ||= new Promise((resolve, reject) => {
      page = crypto.getRandomValues(new Uint32Array(4)).join();
      const request = indexedDB.open(nameOf(site));
      request.onupgradeneeded = () => {
        if (opened) {
          request.transaction.abort(); // what was erased is not made anew
          revoked();
        } else request.result.createObjectStore(OUTBOX);
      };
      request.onerror = request.onblocked = reject;
      request.onsuccess = () => {
        opened = true;
        database = request.result;
        database.onversionchange = () => {
          close();
          revoked();
        };
        resolve();
      };
    }));

  const close = () => {
    database?.close(); // what is under way is still done
    database = opening = page = null;
    leased = 0;
  };

  // Runs `work(outbox, mine, answer)` in one transaction, which `ends` by hand where nothing can be called back any more, and
  // gives its answer once that is done; `failed` where it is not, and then nothing of it will be.
  const within = (work, failed, ends) =>
    new Promise((resolve) => {
      let transaction;
      let over;
      const fails = () => {
        over = true;
        try {
          transaction?.abort();
          resolve(failed);
        } catch {
          // It is done, or about to be.
        }
      };
      const run = async () => {
        if (!database) await open(); // at once if it is open: the page may be going
        if (over) return;
        transaction = database.transaction(OUTBOX, 'readwrite');
        let answer;
        transaction.oncomplete = () => resolve(answer);
        transaction.onabort = () => resolve(failed);
        work(transaction.objectStore(OUTBOX), page, (value) => (answer = value));
        if (ends) transaction.commit?.();
      };
      setTimeout(fails, ANSWER_MS);
      run().catch(() => {
        if (!database) opening = null; // another time
        fails();
      });
    });

  return {
    // Says that this page lives and, if it `wants`, takes over what is free: [{ number, batch, sent }], or null where nothing
    // can be stored.
    take: (wants) =>
      within((outbox, mine, answer) => {
        const now = Date.now();
        const living = [mine];
        const free = [];
        count = 0;
        outbox.put(now, mine);
        outbox.openCursor().onsuccess = ({ target: { result: cursor } }) => {
          if (!cursor) {
            if (page === mine) leased = now;
            return answer(free);
          }
          const { key, value } = cursor; // the pages come first: a string sorts before bytes
          if (typeof key === 'string') {
            if (Math.abs(now - value) < LEASE_MS) living.push(key);
            else cursor.delete();
          } else if (++count && wants && !living.includes(value.page)) {
            const number = new Uint8Array(key);
            cursor.update({ ...value, page: mine });
            known.set(String(number), true);
            free.push({ ...value, number });
          }
          cursor.continue();
        };
      }, null),

    // Stores what the core says. What is there already is replaced in one step, and only if it is still this page's: a page
    // that `goes` has no time to look, and as long as its lease holds no need. Gives what came of it, or a promise of that.
    put(bytes, goes) {
      const replaced = bytes.slice(0, NUMBER_BYTES);
      const number = bytes.slice(NUMBER_BYTES, 2 * NUMBER_BYTES);
      const key = String(number);
      const same = String(replaced) === key;
      const fresh = same && !known.get(key);
      const marks = goes && same && !fresh && Math.abs(Date.now() - leased) < LEASE_MS;
      if (fresh && !known.has(key)) {
        if (count >= BATCHES_MAX) return IN_MEMORY;
        count++;
        known.set(key, false);
      }
      const stored = within(
        (outbox, mine, answer) => {
          const write = () => {
            outbox.put({ page: mine, sent: !!bytes[bytes.length - 1], batch: bytes.slice(2 * NUMBER_BYTES, -1) }, number);
            answer(STORED);
          };
          if (fresh || marks) return write();
          outbox.get(replaced).onsuccess = ({ target: { result: old } }) => {
            if (old?.page !== mine) return answer(ELSEWHERE);
            outbox.delete(replaced);
            write();
          };
        },
        fresh ? IN_MEMORY : same ? UNSURE : ELSEWHERE,
        goes && (fresh || marks),
      ).then((what) => {
        if (what === STORED) known.set(key, true);
        else if (fresh && known.delete(key)) count--;
        return what;
      });
      return marks ? STORED : stored;
    },

    delete(number) {
      if (known.delete(String(number))) count--;
      return within((outbox) => outbox.delete(number));
    },

    // The page goes: the next one may have what is its own. It may come back, as another page.
    leave() {
      if (!database) return;
      within((outbox, mine) => outbox.delete(mine), null, true);
      close();
    },

    erase() {
      if (database) within((outbox) => outbox.clear());
      close();
      eraseStore(site);
    },
  };
};
