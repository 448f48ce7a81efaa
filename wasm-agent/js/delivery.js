// Sockets, requests and timers: does what the core says, and without a core the little that goes without.

import { loadCore, wrapCore } from './core.js';
import { startEarly } from './early.js';
import { guarded } from './page.js';
import { NUMBER_BYTES, eraseStore, openStore } from './store.js';

const CONNECT = -1;
const DISCONNECT = -2;
const STOPPED = -3;
const WAIT = -4;
const STORE = 1 << 16;
// Of the 64 KiB that all keepalive requests of a page may have in the air; the last batch may reach over it by 16.
const KEEPALIVE_BYTES = 30_000;
const REASON_OUTBOX_FULL = 64;
const WITHOUT_CORE_FLUSH_MS = 500;
const WITHOUT_CORE_RETRY_MS = 10_000;
const TAKE_MS = 60_000; // says that this page lives, and looks for what others left

// Delivers for `site` to the gateway at `base`, a URL that ends with a slash. `granted`: 'granted' if
// the outbox may be on the device, 'denied' if what is there is to be deleted.
export const startDelivery = (base, site, granted) => {
  const early = startEarly(site, granted === 'granted');
  let core;
  let withoutCore = false;
  let socket = null;
  let timer;
  let store = null;
  let spare = []; // out of the store, for a core that has no room yet
  let online = false; // what is stored now is sent at once

  const hidden = () => document.visibilityState === 'hidden';

  // Does what the core says until that is to wait.
  const pump = guarded(() => {
    clearTimeout(timer);
    tidy();
    // Only a page that is seen opens a connection.
    while (core && (socket || !hidden())) {
      const command = core.poll();
      if (command >= STORE) keep(core.written(command - STORE));
      else if (command > 0) send(core.written(command));
      else if (!command) forget();
      else if (command === CONNECT) connect();
      else if (command === DISCONNECT) {
        const unheard = socket && !socket.answered;
        disconnect();
        if (unheard) leave(false); // a network that swallows sockets never says so
      } else if (command === STOPPED) return;
      else {
        timer = setTimeout(pump, WAIT - command);
        return;
      }
    }
  });

  // What the store has to do, whether anything is sent or not.
  const tidy = () => {
    if (!core) return;
    while (core.settled()) forget();
    for (let bytes; (bytes = core.store()); ) keep(core.written(bytes));
    while (spare.length && core.restore(spare[0])) spare.shift();
  };

  const keep = (bytes) => {
    const number = bytes.slice(NUMBER_BYTES, 2 * NUMBER_BYTES);
    const kept = guarded((what) => {
      core.stored(number, what);
      pump();
    });
    if (store) store.put(bytes, online).then(kept);
    else Promise.resolve(2).then(kept);
  };

  const forget = () => store?.delete(core.written(NUMBER_BYTES));

  const take = () => {
    const from = store;
    // A page that nobody sees sends nothing, so it leaves to others what is free.
    from?.take(!hidden()).then((free) => {
      if (store !== from) return;
      if (free) spare.push(...free);
      else consent(false); // as if it had been denied: there is no store
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
    core?.setClass(granted);
  });

  const connect = () => {
    const failed = guarded(() => {
      if (socket !== opening) return;
      socket = null;
      online = false;
      core.closed(0);
      if (!opening.answered) leave(false); // where no socket gets through, requests may
      pump();
    });
    const opening = { answered: false, send: () => {}, close: () => {} };
    socket = opening;
    try {
      const real = new WebSocket(base.replace(/^http/, 'ws') + 'v1/stream');
      opening.send = (frame) => real.send(frame);
      opening.close = () => real.close();
      real.binaryType = 'arraybuffer';
      real.onopen = guarded(() => {
        online = true;
        const opened = guarded(() => {
          if (socket !== opening) return;
          core.opened();
          pump();
        });
        const sendable = guarded((marked) => {
          if (!marked) consent(false, true); // it would say that nothing was sent: better no store than that one
          opened();
        });
        if (store) store.markSent().then(sendable);
        else opened();
      });
      real.onmessage = guarded(({ data }) => {
        if (socket !== opening || !(data instanceof ArrayBuffer)) return;
        opening.answered = true;
        receive(new Uint8Array(data));
      });
      real.onclose = failed;
    } catch {
      setTimeout(failed);
    }
  };

  const send = (frame) => socket?.send(frame);

  // The socket's events do not reach the core any more.
  const disconnect = () => {
    const left = socket;
    socket = null;
    online = false;
    left?.close();
  };

  const receive = (frame) => {
    const refusal = core.receive(frame);
    if (refusal) console.warn('tideline: ' + refusal);
    pump();
  };

  const post = (body, answered) => {
    const url = base + 'v1/batch';
    const type = 'text/plain'; // needs no preflight
    fetch(url, { method: 'POST', keepalive: true, credentials: 'omit', headers: { 'Content-Type': type }, body })
      .then(async (response) => answered(new Uint8Array(await response.arrayBuffer()), response.status))
      .catch(() => navigator.sendBeacon(url, new Blob([body], { type })))
      .catch(() => {});
  };

  // Sends everything without an answer, at once and by whatever way there is. The page may never run again; `goes` says that
  // it leaves the screen's tab too, where an open socket would keep it out of the back-forward cache.
  const leave = guarded((goes) => {
    if (!core) {
      postEarly();
      return;
    }
    core.flush();
    if (socket) pump();
    const before = online;
    online = true;
    tidy();
    store?.markSent();
    online = before;
    for (let left = KEEPALIVE_BYTES, bytes; left > 0 && (bytes = core.post()); left -= bytes) {
      post(core.written(bytes), (answer) => receive(answer));
    }
    if (goes) {
      clearTimeout(timer);
      disconnect();
      core.closed(1);
      spare = [];
      store?.leave();
    }
  });

  const postEarly = () => {
    clearTimeout(timer);
    early.close();
    for (const entry of early.due()) {
      post(early.envelope(entry), (answer, status) => {
        if (core) return receive(answer);
        Object.assign(entry, { answer, status });
        if (withoutCore) early.forget();
      });
    }
    if (withoutCore && early.sent.length) timer = setTimeout(guarded(postEarly), WITHOUT_CORE_RETRY_MS);
  };

  // The core goes on where the encoder stopped: same sid, next number, nothing forgotten.
  const takeOver = (exports) => {
    const loaded = wrapCore(exports);
    if (early.seq === 1) early.long = !!store;
    if (!loaded.start(early, site)) return;
    core = loaded;
    for (const { batch } of early.sent) core.adopt(batch);
    core.setClass(!!store);
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
        early.forget();
        postEarly();
      });

  const goneHidden = guarded(() => (hidden() ? leave(false) : pump()));
  document.addEventListener('visibilitychange', goneHidden);
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
      if (hidden()) leave(false); // nothing is certain to run later, and what a socket holds may never leave it
      else if (core) pump();
      else if (withoutCore) {
        clearTimeout(timer);
        timer = setTimeout(guarded(postEarly), WITHOUT_CORE_FLUSH_MS);
      }
    },
  };
};
