// Sockets, requests and timers: does what the core says, and without a core the little that goes without.

import { loadCore, wrapCore } from './core.js';
import { startEarly } from './early.js';
import { guarded } from './page.js';

const CONNECT = -1;
const DISCONNECT = -2;
const STOPPED = -3;
const WAIT = -4;
// Of the 64 KiB that all keepalive requests of a page may have in the air; the last batch may reach over it by 16.
const KEEPALIVE_BYTES = 30_000;
const REASON_OUTBOX_FULL = 64;
const WITHOUT_CORE_FLUSH_MS = 500;
const WITHOUT_CORE_RETRY_MS = 10_000;

// Delivers for `site` to the gateway at `base`, a URL that ends with a slash.
export const startDelivery = (base, site) => {
  const early = startEarly(site);
  let core;
  let withoutCore = false;
  let socket = null;
  let timer;

  const hidden = () => document.visibilityState === 'hidden';

  // Does what the core says until that is to wait.
  const pump = guarded(() => {
    clearTimeout(timer);
    // Only a page that is seen opens a connection.
    while (core && (socket || !hidden())) {
      const command = core.poll();
      if (command > 0) send(core.written(command));
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

  const connect = () => {
    const failed = guarded(() => {
      if (socket !== opening) return;
      socket = null;
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
        if (socket !== opening) return;
        core.opened();
        pump();
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
    for (let left = KEEPALIVE_BYTES, bytes; left > 0 && (bytes = core.post()); left -= bytes) {
      post(core.written(bytes), (answer) => receive(answer));
    }
    if (goes) {
      clearTimeout(timer);
      disconnect();
      core.closed(1);
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
    if (!loaded.start(early, site)) return;
    core = loaded;
    for (const { batch } of early.sent) core.adopt(batch);
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
  if (window.requestIdleCallback) requestIdleCallback(load, { timeout: 1000 });
  else setTimeout(load, 1);

  return {
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
