// The order in which transports are tried. What fails without an answer is left for the one below at once, and not tried again
// for some minutes: in this page, and where the visitor agreed to storage, in the next pages of the tab too. Only where all of
// them fail has the connection failed; then it is the network or the gateway that is away, and nothing is held against any.

import { guarded } from './page.js';
import { grpcWeb, post, webSocket, webTransport } from './transports.js';
import { DRAIN, GREETING, withKey } from './wire.js';

// UDP that passes at all has a session in two round trips; where it does not, this is all that the wait costs.
const WEB_TRANSPORT_MS = 1_500;
// TCP, TLS and the upgrade are three or four round trips, and a poor mobile network needs a second for each. To the core each
// transport is an attempt of its own, which it gives ten.
const OPEN_MS = 5_000;
// A Welcome is one, and a gateway gives it without disk or Redis. Who swallows frames costs no more than this.
const WELCOME_MS = 3_000;
// What has left a batch unanswered for so long and is given up then is given up for that: half of what the core waits for an answer.
const SILENT_MS = 15_000;
// A network that got better is noticed by then. Trying costs a few seconds in ten minutes, in which batches are posted.
const REMEMBERED_MS = 600_000;

// `webtransport`, `certificateHash`: the script's attributes, for a gateway whose `base` is not https, or whose certificate
// no authority has signed. `key`: the site's, if the page has one.
export const startLadder = (base, site, { webtransport, certificateHash, key: siteKey }) => {
  const tlsBase = base.startsWith('https') ? base : webtransport;
  // Each with the time that it has to open, and then to answer.
  const rungs = [
    tlsBase && window.WebTransport && [webTransport(tlsBase, certificateHash), WEB_TRANSPORT_MS, WELCOME_MS],
    [webSocket(base), OPEN_MS, WELCOME_MS],
    [grpcWeb(base, site, siteKey), OPEN_MS, WELCOME_MS],
    [post(base, site, siteKey)], // there is none below that could do better
  ].filter(Boolean);
  const key = 'tideline/' + site;
  let at = 0;
  let fellAt = 0; // when the last rung was left for the one below
  let tried = false;
  let stores = false;

  const ofBatch = ([tag]) => tag > GREETING && tag < DRAIN;
  const recent = (time) => Math.abs(Date.now() - time) < REMEMBERED_MS;
  const stale = () => at > 0 && !recent(fellAt);

  // Says whether there is one below.
  const fall = () => {
    at = (at + 1) % rungs.length;
    fellAt = Date.now();
    return at > 0;
  };

  const save = guarded(() => {
    if (stores && at) sessionStorage.setItem(key, [rungs.length - at, fellAt]); // from below: not everywhere is there a first
  });

  return {
    // Whether what was left is worth another try.
    stale,
    fall,

    // Opens the rung that is next. `closed` hears whether the next one may be tried at once.
    connect({ opened, frame, closed }) {
      if (stale()) at = 0;
      tried = true;
      const [open, openMs, answerMs] = rungs[at];
      let transport;
      let clock;
      let answered = false;
      let askedAt = Infinity; // since when batches have no answer
      let over = false;

      const silent = () => !answered || Date.now() - askedAt >= SILENT_MS;
      const heard = (action) => guarded((value) => over || action(value));
      const within = (ms) => {
        clearTimeout(clock);
        if (ms) clock = setTimeout(failed, ms);
      };
      const failed = heard(() => {
        connection.close();
        closed(silent() && fall());
      });
      const connection = {
        silent,
        send(message) {
          if (ofBatch(message)) askedAt = Math.min(askedAt, Date.now());
          transport.send(message[0] === GREETING ? withKey(message, siteKey) : message);
        },
        // Whatever still comes of it is not heard.
        close: guarded(() => {
          over = true;
          within(0);
          transport?.close();
        }),
      };
      within(openMs);
      try {
        transport = open({
          opened: heard(() => {
            within(answerMs);
            opened();
          }),
          frame: heard((message) => {
            within(0);
            if (!answered) save();
            answered = true;
            if (ofBatch(message)) askedAt = Infinity;
            frame(message);
          }),
          closed: failed,
        });
      } catch (error) {
        console.warn('tideline: ' + error.message);
        setTimeout(failed);
      }
      return connection;
    },

    // Of the visitor to storage on the device. Without it nothing is looked for there either.
    consent: guarded((granted) => {
      stores = granted;
      if (!granted) return sessionStorage.removeItem(key);
      const [fromBelow, since] = (sessionStorage.getItem(key) || '').split(',').map(Number);
      const rung = rungs.length - fromBelow;
      if (!tried && rungs[rung] && recent(since)) [at, fellAt] = [rung, since];
      else save();
    }),
  };
};
