// Bytes: protobuf's primitives, and how messages follow each other where a transport carries nothing but a stream of bytes.

const MESSAGE_BYTES_MAX = 65_536; // what either side takes
const TRAILERS = 0x80;

// The first byte of a frame, its field's tag (proto/schema/agent.proto): a ClientFrame with a Hello and a ServerFrame with a
// Welcome have the same, and between that and Drain lie what asks or answers for a batch.
export const GREETING = 0x0a;
export const DRAIN = 0x2a;

export const utf8 = (text) => new TextEncoder().encode(text);

// Not with shifts: a time has more than 32 bits.
export const varint = (number) => {
  const out = [];
  for (; number > 127; number = Math.floor(number / 128)) out.push((number % 128) | 128);
  out.push(number);
  return out;
};

export const uint = (field, number) => (number ? [...varint(field * 8), ...varint(number)] : []);

export const bytes = (field, payload) => [...varint(field * 8 + 2), ...varint(payload.length), ...payload];

export const joined = (...parts) => Uint8Array.from(parts.flatMap((part) => [...part]));

// The message in a ClientFrame, behind tag and length.
export const unwrapped = (frame) => frame.subarray(frame.findIndex((byte, place) => place && byte < 128) + 1);

// The site's key as this field, if the page has one: in protobuf fields can be put anywhere.
export const keyed = (field, key) => (key ? bytes(field, utf8(key)) : []);

// The ClientFrame of a Hello with it.
export const withKey = (hello, key) => (key ? joined(bytes(1, [...unwrapped(hello), ...keyed(3, key)])) : hello);

// On WebTransport's one stream a message follows its length.
export const withLength = (message) => joined(varint(message.length), message);

export const lengthHead = (stream) => {
  let length = 0;
  for (const [place, byte] of stream.entries()) {
    length += (byte & 127) * 128 ** place;
    if (byte < 128 || length > MESSAGE_BYTES_MAX) return [place + 1, length];
  }
};

// In gRPC-Web it follows a byte of flags and four of its length; trailers do too.
export const withFlags = (message) => joined([0, 0, message.length >> 16, message.length >> 8, message.length], message);

export const flagsHead = (stream) => {
  const [flags, a, b, c, d] = stream;
  if (flags & ~TRAILERS) return [0, Infinity]; // compressed, which nobody asked for, or not gRPC-Web at all
  if (stream.length > 4) return [5, ((a * 256 + b) * 256 + c) * 256 + d, flags];
};

// Takes a stream apart, however it is cut: calls `took` for each message but trailers. `headOf` what has come gives where the
// message begins, how long it is, and flags; nothing while the head is not whole. Throws where no message can be.
export const unframe = (headOf, took) => {
  let stream = new Uint8Array();
  return (chunk) => {
    stream = joined(stream, chunk);
    for (let head; (head = headOf(stream)); ) {
      const [start, length, flags] = head;
      if (length > MESSAGE_BYTES_MAX) throw new RangeError();
      if (stream.length < start + length) return;
      if (!flags) took(stream.slice(start, start + length));
      stream = stream.subarray(start + length);
    }
  };
};
