// The outbox on the device, an IndexedDB a site: only where the page has said that its visitor agreed to it. It holds
// batches under their numbers (binary keys: sid, seq), each with the page that may send it, and for each page (string keys)
// when it last said that it lives. A page's batches are free for the next one once it has left, or been silent for LEASE_MS.
// Nothing here throws: what cannot be stored stays in memory.

const OUTBOX = 'outbox';
const LEASE_MS = 180_000; // three renewals, which a hidden page may run once a minute
const BATCHES_MAX = 64; // of all pages, 16 KiB each at most
const ANSWER_MS = 2_000; // a store that takes longer is none
export const NUMBER_BYTES = 20;
// What came of storing, for the core.
const [ELSEWHERE, STORED, IN_MEMORY] = [0, 1, 2];

const nameOf = (site) => 'tideline/' + site;

// Forgets what any page of the site has stored. Others that have it open are told and close it.
export const eraseStore = (site) => {
  try {
    indexedDB.deleteDatabase(nameOf(site));
  } catch {
    // There is none.
  }
};

// `revoked` is called when another page erases the store.
export const openStore = (site, revoked) => {
  let page;
  let database;
  let opening;
  const unsent = new Map(); // ours that the store calls never sent
  let count = 0; // of all pages' batches, about

  const open = () =>
    (opening ||= new Promise((resolve, reject) => {
      page = crypto.getRandomValues(new Uint32Array(4)).join();
      const request = indexedDB.open(nameOf(site));
      request.onupgradeneeded = () => request.result.createObjectStore(OUTBOX);
      request.onerror = request.onblocked = reject;
      request.onsuccess = () => {
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
    database = opening = null;
  };

  // Runs `work(outbox, answer)` in one transaction and gives its answer once that is done; `failed` where it is not.
  const within = (work, failed) => {
    const run = () =>
      new Promise((resolve, reject) => {
        const transaction = database.transaction(OUTBOX, 'readwrite');
        let answer;
        transaction.oncomplete = () => resolve(answer);
        transaction.onabort = reject;
        work(transaction.objectStore(OUTBOX), (value) => (answer = value), transaction);
      });
    const late = new Promise((resolve) => setTimeout(resolve, ANSWER_MS, failed));
    const done = async () => (database || (await open()), run()); // at once if it is open: the page may be going
    return Promise.race([done().catch(() => failed), late]);
  };

  return {
    // Says that this page lives and, if it `wants`, takes over what is free: [{ batch, sent }], or null where nothing can be
    // stored.
    take: (wants) =>
      within((outbox, answer) => {
        const now = Date.now();
        const living = [page];
        const free = [];
        count = 0;
        outbox.put(now, page);
        outbox.openCursor().onsuccess = ({ target: { result: cursor } }) => {
          if (!cursor) return answer(free);
          const { key, value } = cursor; // the pages come first: a string sorts before bytes
          if (typeof key === 'string') {
            if (Math.abs(now - value) < LEASE_MS) living.push(key);
            else cursor.delete();
          } else if (++count && wants && !living.includes(value.page)) {
            cursor.update({ ...value, page });
            if (!value.sent) unsent.set(String(new Uint8Array(key)), { number: key, batch: value.batch });
            free.push(value);
          }
          cursor.continue();
        };
      }, null),

    // Stores what the core says.
    put(bytes, sent) {
      const replaced = bytes.slice(0, NUMBER_BYTES);
      const number = bytes.slice(NUMBER_BYTES, 2 * NUMBER_BYTES);
      const batch = bytes.slice(2 * NUMBER_BYTES);
      if (!sent) unsent.set(String(number), { number, batch });
      if (String(replaced) === String(number)) {
        if (count >= BATCHES_MAX) return Promise.resolve(IN_MEMORY);
        count++;
        return within((outbox, answer, transaction) => {
          outbox.put({ page, sent, batch }, number);
          answer(STORED);
          transaction.commit?.(); // the page may be going, and then nothing is called any more
        }, IN_MEMORY);
      }
      // Another number replaces the old one in one step, and only if this page still has it.
      return within((outbox, answer) => {
        outbox.get(replaced).onsuccess = ({ target: { result: old } }) => {
          if (old?.page !== page) return answer(ELSEWHERE);
          outbox.delete(replaced);
          outbox.put({ page, sent, batch }, number);
          answer(STORED);
        };
      }, ELSEWHERE);
    },

    delete(number) {
      count--;
      unsent.delete(String(number));
      return within((outbox) => outbox.delete(number));
    },

    // From now on nobody can know whether ours were sent. Gives whether the store says so too.
    markSent() {
      if (!unsent.size) return Promise.resolve(true);
      const marked = [...unsent.values()];
      unsent.clear();
      return within((outbox, answer, transaction) => {
        for (const { number, batch } of marked) outbox.put({ page, sent: true, batch }, number);
        answer(true);
        transaction.commit?.();
      }, false);
    },

    // The page goes: the next one may have what is ours. It may come back, as another page.
    leave() {
      if (!database) return;
      unsent.clear();
      within((outbox, _, transaction) => {
        outbox.delete(page);
        transaction.commit?.();
      });
      close();
    },

    erase() {
      if (database) within((outbox) => outbox.clear());
      close();
      eraseStore(site);
    },
  };
};
