// Before the core is there, or without it: a queue and the smallest encoder that can send it, so that a page that is left
// after 50 ms is counted. What it numbers, the core takes over under the same sid and goes on from there.
// Field numbers are those of proto/schema/agent.proto.

import { bytes, joined, keyed, uint, utf8, varint } from './wire.js';

const QUEUE_MAX = 200; // events; what happens beyond is given up and reported
const SENT_MAX = 16; // batches without an answer
const BATCH_BYTES = 16_000; // the core's 16 KiB with room for a report: what one of the two can send, the other can
// Another batch is numbered below this. With the one that reaches over it there are 40,000 bytes: the core's outbox has 48 KiB
// to take them over, and the browser 64 KiB for a page that goes.
const SENT_BYTES = 24_000;
const SEQ_MAX = 4096;
const SID_ROTATES_MS = 3600_000;
const POST_AGAIN_MS = 1000; // a page that goes says so twice within milliseconds
const REASON_OUTBOX_FULL = 64;
const REASON_TOO_LARGE = 67;
const TOO_MANY_REQUESTS = 429;

// `long`: the batches are of class long. `key`: the site's, if the page has one.
export const startEarly = (site, long, key) => {
  const early = { queue: [], sent: [], givenUp: 0, long };

  const newSid = () => {
    early.stamp = Date.now();
    early.random = crypto.getRandomValues(new Uint8Array(10));
    early.seq = 1;
  };
  newSid();

  early.event = (event) => {
    if (early.queue.length < QUEUE_MAX) early.queue.push(event);
    else early.givenUp++;
  };

  const roomy = () =>
    early.sent.length < SENT_MAX && early.sent.reduce((bytes, { batch }) => bytes + batch.length, 0) < SENT_BYTES;

  // Numbers what is queued; what has to wait for answers stays there.
  early.close = () => {
    while (early.queue.length && roomy()) {
      if (early.seq > SEQ_MAX || Date.now() - early.stamp >= SID_ROTATES_MS) newSid();
      const { batch, taken } = encodeBatch(early);
      const number = Uint8Array.of(...sidBytes(early.stamp, early.random), 0, 0, early.seq >> 8, early.seq);
      early.sent.push({ batch, number, postedAt: 0, answer: null });
      early.seq++;
      early.queue.splice(0, taken);
      early.givenUp = 0;
    }
  };

  // What is to be posted now, each marked as posted.
  early.due = () => {
    const now = Date.now();
    const due = early.sent.filter((entry) => !entry.answer && now - entry.postedAt >= POST_AGAIN_MS);
    for (const entry of due) entry.postedAt = now;
    return due;
  };

  early.envelope = ({ batch }) => joined(bytes(1, utf8(site)), uint(3, Date.now()), bytes(4, batch), keyed(5, key));

  // Without a core nobody reads answers. Their status says whether the batch is to come again, also where a proxy gives it.
  // Gives those that are not to.
  early.forget = () => {
    const again = ({ answer, status }) => !answer || status >= 500 || status === TOO_MANY_REQUESTS;
    const done = early.sent.filter((entry) => !again(entry));
    early.sent = early.sent.filter(again);
    for (const entry of early.sent) entry.answer = null;
    return done;
  };
  return early;
};

// Encodes as many events as one batch holds, the strings of each in front of it, and gives how many of the queue those are.
const encodeBatch = ({ stamp, random, seq, queue, givenUp, long }) => {
  let batch = [...bytes(1, sidBytes(stamp, random)), ...uint(2, seq), ...uint(3, +long)];
  const strings = [];
  const reference = (text) => {
    if (!text) return 0;
    const known = strings.indexOf(text) + 1;
    if (!known) batch = batch.concat(bytes(5, utf8(text)));
    return known || strings.push(text);
  };
  const language = reference(navigator.language);
  let last = queue[0].at;
  batch.push(...uint(4, last), ...uint(8, screen.width), ...uint(9, screen.height), ...uint(10, language), ...uint(11, +navigator.webdriver));
  let taken = 0;
  let tooLarge = 0;
  for (const event of queue) {
    const [before, known] = [batch, strings.length];
    const fields = [
      ...uint(1, reference(event.name)),
      ...uint(2, zigzag(event.at - last)),
      ...uint(3, reference(event.url)),
      ...uint(4, reference(event.referrer)),
      ...(event.props.length ? bytes(5, packed(event.props, reference)) : []),
    ];
    batch = batch.concat(bytes(6, fields));
    if (batch.length <= BATCH_BYTES) last = event.at;
    else {
      batch = before;
      strings.length = known;
      if (taken > tooLarge) break; // it may fit into the next
      tooLarge++;
    }
    taken++;
  }
  return { batch: [...batch, ...report(REASON_OUTBOX_FULL, givenUp), ...report(REASON_TOO_LARGE, tooLarge)], taken };
};

const report = (reason, events) => (events ? bytes(7, [...uint(1, reason), ...uint(2, events)]) : []);

// A UUIDv7: 48 bits of time, version, random bits, variant, random bits.
const sidBytes = (stamp, random) => {
  const sid = [5, 4, 3, 2, 1, 0].map((place) => Math.floor(stamp / 256 ** place) % 256).concat(...random);
  sid[6] = 0x70 | (sid[6] & 0x0f);
  sid[8] = 0x80 | (sid[8] & 0x3f);
  return sid;
};

const zigzag = (number) => (number < 0 ? -2 * number - 1 : 2 * number);

const packed = (props, reference) => props.flatMap((text) => varint(reference(text)));
