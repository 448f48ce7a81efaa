// The core: WebAssembly, or the same module as JavaScript where the page's policy forbids that. Strings and frames pass
// through its two buffers; wasm/src/exports.rs says what each call means.

const REASON_TOO_LARGE = 67;

// Fetches the core; rejects where neither kind can run.
export const loadCore = async (base) => {
  try {
    const module = await (await fetch(base + 'tideline.wasm')).arrayBuffer();
    return (await WebAssembly.instantiate(module)).instance.exports;
  } catch {
    return loadScript(base + 'tideline-core.js');
  }
};

// tideline-core.js leaves its exports at window.tideline.core: no second global.
const loadScript = (src) =>
  new Promise((resolve, reject) => {
    const script = document.createElement('script');
    script.onload = () => resolve(window.tideline.core);
    script.onerror = reject;
    script.src = src;
    document.head.append(script);
  });

// Wraps the exports for the page. The core's memory never grows, so the views stay valid.
export const wrapCore = (exports) => {
  const { buffer } = exports.memory;
  const input = new Uint8Array(buffer, exports.input(), exports.input_bytes());
  const output = new Uint8Array(buffer, exports.output());
  const encoder = new TextEncoder();

  return {
    start({ stamp, random, seq, long }, site) {
      input.set(random);
      const siteBytes = encoder.encodeInto(site, input.subarray(10)).written;
      const languageBytes = encoder.encodeInto(navigator.language, input.subarray(10 + siteBytes)).written;
      return exports.start(stamp, seq, long, siteBytes, languageBytes, screen.width, screen.height, navigator.webdriver);
    },

    // Takes over a batch that was sent before.
    adopt(batch) {
      if (batch.length > input.length) return;
      input.set(batch);
      exports.adopt(batch.length);
    },

    // Takes over a batch out of the store: 0 is to be tried again later, 2 is none.
    restore({ batch, sent }) {
      if (!(batch?.length <= input.length)) return 2;
      input.set(batch);
      return exports.restore(Date.now(), batch.length, sent);
    },

    stored(number, kept) {
      input.set(number);
      exports.stored(Date.now(), kept);
    },

    event({ name, url, referrer, props, at }) {
      let end = 0;
      for (const text of [name, url, referrer, ...props]) {
        const { read, written } = encoder.encodeInto(text, input.subarray(end + 2));
        if (read < text.length || end + 2 > input.length) {
          exports.give_up(at, REASON_TOO_LARGE, 1);
          return;
        }
        input[end] = written & 255;
        input[end + 1] = written >> 8;
        end += 2 + written;
      }
      exports.event(at, end);
    },

    // Gives the gateway's message if it does not want us, or has something to say to a developer.
    receive(frame) {
      if (frame.length > input.length) return '';
      input.set(frame);
      const place = exports.receive(Date.now(), frame.length);
      return new TextDecoder().decode(input.subarray(place >>> 16, (place >>> 16) + (place & 0xffff)));
    },

    giveUp: (reason, events) => exports.give_up(Date.now(), reason, events),
    setClass: (long) => exports.set_class(Date.now(), long),
    store: () => exports.store(),
    settled: () => exports.settled(),
    flush: () => exports.flush(Date.now()),
    opened: () => exports.opened(Date.now()),
    closed: (onPurpose) => exports.closed(Date.now(), onPurpose),
    poll: () => exports.poll(Date.now()),
    post: () => exports.post(Date.now()),
    written: (bytes) => output.slice(0, bytes),
  };
};
