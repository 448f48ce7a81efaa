// Before the core is there, or without it: a queue and the smallest encoder that can send it, so that a page that is left
// after 50 ms is counted. What it numbers, the core takes over under the same sid and goes on from there.
// Field numbers are those of proto/schema/agent.proto.

const QUEUE_MAX = 200; // events; what happens beyond is given up and reported
const SENT_MAX = 16; // batches without an answer
const SEQ_MAX = 4096;
const SID_ROTATES_MS = 3600_000;
const POST_AGAIN_MS = 1000; // a page that goes says so twice within milliseconds
const REASON_OUTBOX_FULL = 64;
const THROTTLE_TAG = 0x22;

export const startEarly = (site) => {
  const early = { queue: [], sent: [], givenUp: 0 };

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

  // Numbers what is queued.
  early.close = () => {
    if (!early.queue.length || early.sent.length >= SENT_MAX) return;
    if (early.seq > SEQ_MAX || Date.now() - early.stamp >= SID_ROTATES_MS) newSid();
    const batch = encodeBatch(early);
    early.sent.push({ batch, postedAt: 0, answer: null });
    early.seq++;
    early.queue = [];
    early.givenUp = 0;
  };

  // What is to be posted now, each marked as posted.
  early.due = () => {
    const now = Date.now();
    const due = early.sent.filter((entry) => !entry.answer && now - entry.postedAt >= POST_AGAIN_MS);
    for (const entry of due) entry.postedAt = now;
    return due;
  };

  early.envelope = ({ batch }) =>
    Uint8Array.from([...bytes(1, utf8(site)), ...uint(3, Date.now()), ...bytes(4, batch)]);

  // Without a core nobody reads answers: all but a throttle, whatever they say, are the last word.
  early.forget = () => {
    early.sent = early.sent.filter(({ answer }) => !answer || answer[0] === THROTTLE_TAG);
    for (const entry of early.sent) entry.answer = null;
  };
  return early;
};

const encodeBatch = ({ stamp, random, seq, queue, givenUp }) => {
  const strings = [];
  const reference = (text) => (text ? strings.indexOf(text) + 1 || strings.push(text) : 0);
  const base = queue[0].at;
  let last = base;
  const events = queue.flatMap((event) => {
    const fields = [
      ...uint(1, reference(event.name)),
      ...uint(2, zigzag(event.at - last)),
      ...uint(3, reference(event.url)),
      ...uint(4, reference(event.referrer)),
      ...(event.props.length ? bytes(5, packed(event.props, reference)) : []),
    ];
    last = event.at;
    return bytes(6, fields);
  });
  const language = reference(navigator.language);
  return [
    ...bytes(1, sidBytes(stamp, random)),
    ...uint(2, seq),
    ...uint(4, base),
    ...strings.flatMap((text) => bytes(5, utf8(text))),
    ...events,
    ...(givenUp ? bytes(7, [...uint(1, REASON_OUTBOX_FULL), ...uint(2, givenUp)]) : []),
    ...uint(8, screen.width),
    ...uint(9, screen.height),
    ...uint(10, language),
  ];
};

// A UUIDv7: 48 bits of time, version, random bits, variant, random bits.
const sidBytes = (stamp, random) => {
  const sid = [5, 4, 3, 2, 1, 0].map((place) => Math.floor(stamp / 256 ** place) % 256).concat(...random);
  sid[6] = 0x70 | (sid[6] & 0x0f);
  sid[8] = 0x80 | (sid[8] & 0x3f);
  return sid;
};

const utf8 = (text) => new TextEncoder().encode(text);

const zigzag = (number) => (number < 0 ? -2 * number - 1 : 2 * number);

const packed = (props, reference) => props.flatMap((text) => varint(reference(text)));

const bytes = (field, payload) => [...varint(field * 8 + 2), ...varint(payload.length), ...payload];

const uint = (field, number) => (number ? [...varint(field * 8), ...varint(number)] : []);

// Not with shifts: a time has more than 32 bits.
const varint = (number) => {
  const out = [];
  for (; number > 127; number = Math.floor(number / 128)) out.push((number % 128) | 128);
  out.push(number);
  return out;
};
