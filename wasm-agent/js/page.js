// What happens in the page: pageviews, those inside a single-page application and out of the back-forward cache included, and
// what the page itself calls. Nothing here throws into the page.

const URL_LENGTH_MAX = 2000; // what a gateway takes; a URL is ASCII, so characters are bytes

// Reports to `delivery`; gives the function behind window.tideline.
export const watchPage = (delivery) => {
  let path; // of the last pageview
  let url = document.referrer;

  const record = (name, referrer, props) =>
    delivery.event({ name, url: short(location.href), referrer: short(referrer), props, at: Date.now() });

  const pageview = guarded(() => {
    path = location.pathname + location.search;
    record('pageview', url, []);
    url = location.href; // where the next one comes from
  });

  // A new fragment, or the same address once more, is the same page.
  const moved = guarded(() => {
    if (location.pathname + location.search !== path) pageview();
  });

  for (const method of ['pushState', 'replaceState']) {
    const original = history[method];
    history[method] = function (...args) {
      const result = original.apply(this, args);
      moved();
      return result;
    };
  }
  addEventListener('popstate', moved);
  addEventListener('pageshow', (event) => {
    if (event.persisted) pageview();
  });

  pageview();
  return guarded((name, options) => {
    if (name === 'consent' && typeof options === 'string') delivery.consent(options === 'granted');
    else record(String(name), '', flat(options?.props));
  });
};

const short = (address) => address.slice(0, URL_LENGTH_MAX);

const flat = (props) => Object.entries(props || {}).flatMap(([key, value]) => [key, String(value)]);

export const guarded = (action) => (...args) => {
  try {
    return action(...args);
  } catch {
    // The page goes on as if nothing had been called.
  }
};
