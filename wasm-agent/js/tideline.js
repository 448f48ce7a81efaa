// The page's script, in the order in which an event passes it: page.js sees what happens, early.js keeps and encodes it until
// the core is there, core.js is the core, delivery.js sends, by what ladder.js has chosen of transports.js. The page has one line:
//   <script defer src="GATEWAY/tideline.js" data-site="NAME"></script>
// and may call `tideline(name, { props })`, before this script has run too if it defines
//   window.tideline = window.tideline || function () { (tideline.q = tideline.q || []).push(arguments) }
// There is no cookie, and `tideline` is the only global. Nothing is stored on the device unless the page says that its visitor
// agreed: data-consent="granted" in that line, or `tideline('consent', 'granted')`; then what could not be sent waits there
// for a day (store.js), and for some minutes which transports did not get through (ladder.js). 'denied' deletes it.
// data-key="KEY" is a key of the site's, where it asks for one; whoever reads the page can read it.
// data-webtransport="https://HOST:PORT/" says where WebTransport is if GATEWAY is not https, and data-certificate-hash the SHA-256
// of its certificate, in hex, if no authority has signed that.

import { startDelivery } from './delivery.js';
import { guarded, watchPage } from './page.js';

const QUEUED_MAX = 1000; // calls of a page that is being prepared; early.js reports what it cannot take of them

const script = document.currentScript || document.querySelector('script[data-site][src*="tideline"]');
const stub = window.tideline;

// A script that is included twice must not count twice.
if (script && !stub?.running) {
  const site = script.dataset.site;
  const queued = stub?.q || [];
  let track = () => {};
  window.tideline = (name, options) => track(name, options);
  window.tideline.running = true;

  const run = guarded(() => {
    track = watchPage(startDelivery(new URL('.', script.src).href, site, script.dataset));
    for (const call of queued) track(...call);
  });
  // Someone who has asked not to be followed (GPC) is not.
  if (!site) {
    console.warn('tideline: the script needs data-site="NAME", the name of a site that the gateway knows');
  } else if (!navigator.globalPrivacyControl) {
    // A page that the browser only prepares has not been seen by anybody.
    if (document.prerendering) {
      track = (...call) => {
        if (queued.length < QUEUED_MAX) queued.push(call);
      };
      document.addEventListener('prerenderingchange', run, { once: true });
    } else run();
  }
}
