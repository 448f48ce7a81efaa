// Connections, requests and timers: does what the core says, and without a core the little that goes without.

import { loadCore, wrapCore } from './core.js';
import { startEarly } from './early.js';
import { startLadder } from './ladder.js';
import { guarded } from './page.js';
import { IN_MEMORY, NUMBER_BYTES, STORED, UNSURE, eraseStore, openStore } from './store.js';
import { beacon, postBatch } from './transports.js';
import { joined, keyed } from './wire.js';

const CONNECT = -1;
const DISCONNECT = -2;
const STOPPED = -3;
const WAIT = -4;
const STORE = 1 << 16;
const NO_BATCH = 2;
// Of the 64 KiB that all keepalive requests of a page may have in the air; the last batch may reach over it by 16.
const KEEPALIVE_BYTES = 30_000;
const REASON_OUTBOX_FULL = 64;
const WITHOUT_CORE_FLUSH_MS = 500;
const RETRY_MS = 10_000; // of what goes without a core, and of what the store could not mark
const PATIENCE_MS = 2_000; // with a transport that has not answered; more than a good one needs
const TAKE_MS = 60_000; // says that this page lives, and looks for what others left

// Delivers for `site` to the gateway at `base`, a URL that ends with a slash. `settings` are the script's attributes; its
// `consent` is 'granted' if the outbox may be on the device, 'denied' if what is there is to be deleted.
export const startDelivery = (base, site, settings) => {
  const granted = settings.consent;
  const early = startEarly(site, granted === 'granted', settings.key);
  const ladder = startLadder(base, site, settings);
  let core;
  let withoutCore = false;
  let connection = null;
  let timer;
  let store = null;
  let long = false; // new batches may be stored
  let spare = []; // out of the store, for a core that has no room yet

  const hidden = () => document.visibilityState === 'hidden';

  // Does what the core says until that is to wait.
  const pump = guarded(() => {
    clearTimeout(timer);
    tidy();
    // Only a page that is seen opens a connection.
    while (core && (connection || !hidden())) {
      const command = core.poll();
      if (command >= STORE) keep(core.written(command - STORE + 1));
      else if (command > 0) connection?.send(core.written(command));
      else if (!command) forget();
      else if (command === CONNECT) connect();
      else if (command === DISCONNECT) {
        const silent = connection?.silent();
        disconnect();
        if (!silent) continue;
        if (ladder.fall()) core.closed(1); // a network that swallows frames never says so
        leave(false);
      } else if (command === STOPPED) return;
      else {
        timer = setTimeout(pump, WAIT - command);
        return;
      }
    }
  });

  // What the store has to do, whether anything is sent or not. What a page that is not seen stores, it posts.
  const tidy = (goes) => {
    if (!core) return;
    while (core.settled()) forget();
    if (goes || hidden()) for (let bytes; (bytes = core.store()); ) keep(core.written(bytes + 1), goes);
    for (let what; spare.length && (what = core.restore(spare[0])); ) {
      const { number } = spare.shift();
      if (what === NO_BATCH) store.delete(number);
    }
  };

  // A batch leaves once the core hears that it is stored; one that could not be marked is there and waits.
  const keep = (bytes, goes) => {
    const number = bytes.slice(NUMBER_BYTES, 2 * NUMBER_BYTES);
    const kept = guarded((what) => {
      if (what === UNSURE) return setTimeout(keep, RETRY_MS, bytes);
      core.stored(number, what);
      pump();
    });
    const what = store ? store.put(bytes, goes) : IN_MEMORY;
    if (what === STORED) core.stored(number, what);
    else Promise.resolve(what).then(kept);
  };

  const forget = () => store?.delete(core.written(NUMBER_BYTES));

  const take = () => {
    const from = store;
    // A page that nobody sees sends nothing, so it leaves to others what is free.
    from?.take(!hidden()).then((free) => {
      if (store !== from) return;
      spare.push(...(free || []));
      setClass(!!free); // where nothing can be stored, what is there already still wants to be marked and deleted
      pump();
    });
  };
  setInterval(guarded(take), TAKE_MS);

  // Of the visitor to storage on the device. `erases`: unless someone else has.
  const consent = guarded((granted, erases) => {
    if (granted && !store) {
      store = openStore(site, () => consent(false));
      take();
    } else if (!granted) {
      if (erases) store ? store.erase() : eraseStore(site);
      store = null;
      spare = [];
    }
    ladder.consent(granted);
    setClass(granted);
  });

  const setClass = (is) => {
    long = is;
    if (early.seq === 1) early.long = long;
    core?.setClass(long);
  };

  // One transport after the other is a single attempt, so between them the core does not wait; but events do not wait for them.
  const connect = () => {
    const opening = ladder.connect({
      opened() {
        core.opened();
        pump();
      },
      frame: receive,
      closed(falls) {
        connection = null;
        core.closed(falls);
        pump();
      },
    });
    connection = opening;
    setTimeout(() => connection === opening && opening.silent() && leave(false), PATIENCE_MS);
  };

  const disconnect = () => {
    connection?.close();
    connection = null;
  };

  const receive = (frame) => {
    const message = core.receive(frame);
    if (message) console.warn('tideline: ' + message);
    pump();
  };

  const post = (body, answered) => {
    postBatch(base, body, { keepalive: true })
      .then(async (response) => answered(new Uint8Array(await response.arrayBuffer()), response.status))
      .catch(() => beacon(base, body))
      .catch(() => {});
  };

  // Sends everything without an answer, at once and by whatever way there is. The page may never run again; `goes` says that
  // it leaves the screen's tab too, where an open connection would keep it out of the back-forward cache.
  const leave = guarded((goes) => {
    if (core) {
      core.flush();
      tidy(true);
      if (connection) pump();
      for (let left = KEEPALIVE_BYTES, bytes; left > 0 && (bytes = core.post()); left -= bytes) {
        post(joined(core.written(bytes), keyed(5, settings.key)), (answer) => receive(answer));
      }
    } else postEarly();
    if (goes) {
      clearTimeout(timer);
      disconnect();
      core?.closed(1);
      spare = [];
      store?.leave();
    }
  });

  const postEarly = () => {
    clearTimeout(timer);
    early.close();
    for (const entry of early.due()) {
      const { batch, number } = entry;
      if (early.long) store?.put(Uint8Array.of(...number, ...number, ...batch, 1), true);
      post(early.envelope(entry), (answer, status) => {
        if (core) return receive(answer);
        Object.assign(entry, { answer, status });
        if (withoutCore) forgetEarly();
      });
    }
    if (withoutCore && early.sent.length) timer = setTimeout(guarded(postEarly), RETRY_MS);
  };

  const forgetEarly = () => {
    for (const { number } of early.forget()) store?.delete(number);
  };

  // The core goes on where the encoder stopped: same sid, next number, nothing forgotten.
  const takeOver = (exports) => {
    const loaded = wrapCore(exports);
    if (!loaded.start(early, site)) return;
    core = loaded;
    for (const { batch } of early.sent) core.adopt(batch);
    core.setClass(long);
    for (const event of early.queue) core.event(event);
    core.giveUp(REASON_OUTBOX_FULL, early.givenUp);
    for (const { answer } of early.sent) if (answer) receive(answer);
    core.flush(); // the first pageview does not wait
    pump();
  };

  const load = () =>
    loadCore(base)
      .then(takeOver)
      .catch(() => {
        withoutCore = true;
        forgetEarly();
        postEarly();
      });

  const visibility = guarded(() => {
    if (hidden()) return leave(false);
    // Who comes back may have come into another network.
    if (core && ladder.stale()) {
      disconnect();
      core.closed(1);
    }
    pump();
  });
  document.addEventListener('visibilitychange', visibility);
  addEventListener('pagehide', () => leave(true));
  addEventListener('pageshow', (event) => event.persisted && take());
  if (granted) consent(granted === 'granted', true);
  if (window.requestIdleCallback) requestIdleCallback(load, { timeout: 1000 });
  else setTimeout(load, 1);

  return {
    consent: (granted) => consent(granted, true),
    event(event) {
      if (core) core.event(event);
      else early.event(event);
      if (hidden()) leave(false); // nothing is certain to run later, and what a connection holds may never leave it
      else if (core) pump();
      else if (withoutCore) {
        clearTimeout(timer);
        timer = setTimeout(guarded(postEarly), WITHOUT_CORE_FLUSH_MS);
      }
    },
  };
};
