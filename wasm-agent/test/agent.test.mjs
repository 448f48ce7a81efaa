// What the agent does in a real browser, seen from the gateway.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { REASON_SCHEMA_EVENT, REASON_TOO_LARGE, REASON_UNKNOWN_SITE, REASON_WRONG_KEY } from './gateway.mjs';
import { html, launch, settles, sleep, snippet, until, visit } from './browser.mjs';

let browser;
before(async () => {
  browser = await launch();
});
after(() => browser.close());

const LIMITS = { timeout: 60_000 };

test('a pageview arrives at once, with what the page knows', LIMITS, () =>
  visit(browser, {}, async ({ gateway, page, url }) => {
    const started = Date.now();
    await page.goto(`${url}/pricing?utm_source=news`, { referer: 'https://search.example/' });
    await settles(() => gateway.names(), ['/pricing?utm_source=news']);
    assert.ok(gateway.transmissions[0].at - started < 8_000);
    const [event] = gateway.events();
    assert.equal(event.referrer, 'https://search.example/');
    assert.equal(event.seq, 1);
    const { batch } = event;
    const screen = await page.evaluate(() => [window.screen.width, window.screen.height, navigator.language]);
    assert.deepEqual([batch.screenWidth, batch.screenHeight, batch.strings[batch.language - 1]], screen);
    assert.deepEqual(gateway.hellos.map(({ site, agentVersion }) => [site, agentVersion]), [['shop', '0.1.0']]);
    assert.equal(gateway.transmissions.length, 1);
    assert.deepEqual(await page.evaluate(() => [document.cookie, localStorage.length, sessionStorage.length]), ['', 0, 0]);
    assert.equal(await page.evaluate(() => Object.keys(window).filter((key) => /tide|core/i.test(key)).join()), 'tideline');
  }));

for (const driven of [true, false]) {
  const page = (_, gateway) => html(gateway, `<script>Object.defineProperty(navigator, 'webdriver', { get: () => ${driven} })</script>${snippet(gateway)}`);
  const says = ({ batch }) => [batch.seq, batch.automated];

  test(`a browser that ${driven ? 'a program drives' : 'nobody drives'} says so in every batch`, LIMITS, () =>
    visit(browser, { page }, async ({ gateway, page, url }) => {
      await page.goto(url);
      await settles(() => gateway.names(), ['/']);
      await page.evaluate(() => tideline('Later'));
      await settles(() => gateway.names(), ['/', 'Later']);
      assert.deepEqual(gateway.events().map(says), [[1, driven], [2, driven]]);
    }));

  test(`before the core is there, too (${driven})`, LIMITS, () =>
    visit(browser, { page, gateway: { fileDelay: 3_000 } }, async ({ gateway, page, url }) => {
      await page.goto(url);
      await sleep(50);
      await page.goto('about:blank');
      await settles(() => gateway.names(), ['/']);
      assert.deepEqual(gateway.transmissions.map((sent) => [sent.via, ...says(sent)]), [['post', 1, driven]]);
    }));
}

test('custom events carry their properties', LIMITS, () =>
  visit(browser, {}, async ({ gateway, page, url }) => {
    await page.goto(url);
    await page.evaluate(() => {
      tideline('Signup', { props: { plan: 'größer 🌊', seats: 3, trial: false } });
      tideline('Plain');
    });
    await settles(() => gateway.names(), ['/', 'Signup', 'Plain']);
    assert.deepEqual(gateway.events()[1].props, { plan: 'größer 🌊', seats: '3', trial: 'false' });
  }));

test('an application of one page counts each address it shows', LIMITS, () =>
  visit(browser, {}, async ({ gateway, page, url }) => {
    await page.goto(`${url}/app`);
    await page.evaluate(() => {
      history.pushState({}, '', '/app/a?x=1');
      history.replaceState({ scroll: 10 }, ''); // the same address
      history.replaceState({}, '', '/app/b');
      history.pushState({}, '', '/app/b#part'); // the same page
    });
    await page.evaluate(() => new Promise((resolve) => (addEventListener('popstate', resolve, { once: true }), history.back())));
    await page.evaluate(() => new Promise((resolve) => (addEventListener('popstate', resolve, { once: true }), history.back())));
    await settles(() => gateway.names(), ['/app', '/app/a?x=1', '/app/b', '/app']);
    const referrers = gateway.events().map(({ referrer }) => referrer && new URL(referrer).pathname);
    assert.deepEqual(referrers, ['', '/app', '/app/a', '/app/b']);
  }));

test('a page out of the back-forward cache is a new pageview on a new connection', LIMITS, () =>
  visit(browser, {}, async ({ gateway, page, url }) => {
    await page.goto(`${url}/first`);
    await settles(() => gateway.names(), ['/first']);
    await page.evaluate(() => (window.survived = true));
    await page.goto(`${url}/second`);
    await settles(() => gateway.names(), ['/first', '/second']);
    await page.goBack({ waitUntil: 'commit' }); // a page out of the cache does not load
    assert.equal(await page.evaluate(() => window.survived), true, 'the page was kept');
    await settles(() => gateway.names(), ['/first', '/second', '/first']);
    const [first, , again] = gateway.events();
    assert.equal(first.sid, again.sid);
    assert.equal(gateway.connections, 3);
  }));

test('what was called before the script came is not lost', LIMITS, () => {
  const stub = `<script>window.tideline=window.tideline||function(){(tideline.q=tideline.q||[]).push(arguments)};
    tideline('Early', { props: { when: 'before' } })</script>`;
  const page = (_, gateway) => html(gateway, stub + snippet(gateway));
  return visit(browser, { page }, async ({ gateway, page, url }) => {
    await page.goto(url);
    await settles(() => gateway.names(), ['/', 'Early']);
    assert.deepEqual(gateway.events()[1].props, { when: 'before' });
  });
});

test('after a lost connection the same bytes come again', LIMITS, () =>
  visit(browser, {}, async ({ gateway, page, url }) => {
    await page.goto(url);
    await settles(() => gateway.names(), ['/']);
    gateway.acknowledges = false;
    await page.evaluate(() => tideline('Unanswered'));
    await until(() => gateway.names().length === 2);
    gateway.acknowledges = true;
    gateway.cut();
    await until(() => gateway.transmissions.length === 3);
    await settles(() => gateway.names(), ['/', 'Unanswered']); // throws if the bytes differ
    assert.equal(gateway.connections, 2);
    const [, lost, again] = gateway.transmissions;
    assert.ok(again.bytes.equals(lost.bytes));
    assert.ok(again.sentMs > lost.sentMs);
  }));

test('a page left 50 ms after the script ran is counted', LIMITS, () =>
  visit(browser, { gateway: { fileDelay: 3_000 } }, async ({ gateway, page, url }) => {
    await page.goto(`${url}/short`);
    await page.evaluate(() => tideline('Glance'));
    await sleep(50);
    await page.goto('about:blank');
    await settles(() => gateway.names(), ['/short', 'Glance']);
    assert.deepEqual(gateway.transmissions.map(({ via, site }) => [via, site]), [['post', 'shop']]);
  }));

test('a tab closed right after a click is counted', LIMITS, () =>
  visit(browser, {}, async ({ gateway, page, url }) => {
    await page.goto(`${url}/last`);
    await settles(() => gateway.names(), ['/last']);
    await page.evaluate(() => tideline('Goodbye'));
    await page.close({ runBeforeUnload: true });
    await settles(() => gateway.names(), ['/last', 'Goodbye']);
  }));

test('a page that is hidden flushes at once, and over two ways counts once', LIMITS, () =>
  visit(browser, { gateway: { flushIntervalMs: 60_000 } }, async ({ gateway, page, url }) => {
    await page.goto(url);
    await settles(() => gateway.names(), ['/']);
    gateway.acknowledges = false;
    await page.evaluate(() => {
      Object.defineProperty(document, 'visibilityState', { value: 'hidden', configurable: true });
      tideline('Hidden');
      document.dispatchEvent(new Event('visibilitychange'));
    });
    await until(() => gateway.transmissions.length === 3);
    await settles(() => gateway.names(), ['/', 'Hidden']);
    const [, ...both] = gateway.transmissions;
    assert.deepEqual(both.map(({ via }) => via).sort(), ['post', 'socket']);
  }));

test('an event of a hidden page leaves at once although a socket is open', LIMITS, () =>
  visit(browser, { gateway: { flushIntervalMs: 60_000 } }, async ({ gateway, page, url }) => {
    await page.goto(url);
    await settles(() => gateway.names(), ['/']);
    await page.evaluate(() => {
      Object.defineProperty(document, 'visibilityState', { value: 'hidden', configurable: true });
      document.dispatchEvent(new Event('visibilitychange'));
      tideline('Hidden'); // as from a handler behind ours
    });
    await settles(() => gateway.names(), ['/', 'Hidden']);
    await until(() => gateway.transmissions.length === 3);
    const [, ...both] = gateway.transmissions;
    assert.deepEqual(both.map(({ via }) => via).sort(), ['post', 'socket']);
  }));

test('what the small encoder sent before the core came is taken over, not repeated anew', LIMITS, () =>
  visit(browser, { gateway: { fileDelay: 1_500, acknowledges: false } }, async ({ gateway, page, url }) => {
    await page.goto(url);
    await page.evaluate(() => {
      Object.defineProperty(document, 'visibilityState', { value: 'hidden', configurable: true });
      document.dispatchEvent(new Event('visibilitychange'));
    });
    await until(() => gateway.transmissions.length === 1);
    gateway.acknowledges = true;
    await page.evaluate(() => {
      Object.defineProperty(document, 'visibilityState', { value: 'visible', configurable: true });
      tideline('Later');
    });
    await settles(() => gateway.names(), ['/', 'Later'], 1_000);
    const [early, later] = gateway.events();
    assert.deepEqual([early.seq, later.seq], [1, 2]);
    assert.equal(early.sid, later.sid);
    const taken = gateway.transmissions.filter(({ batch }) => batch.seq === 1);
    assert.deepEqual(taken.map(({ via }) => via), ['post', 'socket']);
  }));

test('someone who asks for privacy (GPC) is left alone', LIMITS, () => {
  const init = () => Object.defineProperty(Navigator.prototype, 'globalPrivacyControl', { get: () => true });
  return visit(browser, { init }, async ({ gateway, page, url }) => {
    await page.goto(url);
    await page.evaluate(() => tideline('Signup'));
    await sleep(1_500);
    await page.goto('about:blank');
    await settles(() => [gateway.transmissions.length, gateway.connections], [0, 0]);
  });
});

const prerendered = () => {
  Object.defineProperty(document, 'prerendering', { value: true, configurable: true });
  window.show = () => {
    Object.defineProperty(document, 'prerendering', { value: false });
    document.dispatchEvent(new Event('prerenderingchange'));
  };
};

test('a prerendered page counts once it is shown, with what it called before', LIMITS, () =>
  visit(browser, { init: prerendered }, async ({ gateway, page, url }) => {
    await page.goto(url);
    await page.evaluate(() => tideline('Prepared', { props: { when: 'before' } }));
    await settles(() => gateway.names(), []);
    await page.evaluate(() => {
      show();
      tideline('Shown');
    });
    await settles(() => gateway.names(), ['/', 'Prepared', 'Shown']);
    assert.deepEqual(gateway.events()[1].props, { when: 'before' });
  }));

test('a prerendered page does not hear of it when the agent cannot run', LIMITS, () =>
  visit(browser, { init: prerendered }, async ({ page, url }) => {
    await page.goto(url);
    await page.evaluate(() => {
      crypto.getRandomValues = () => {
        throw new Error('no random numbers');
      };
      show();
      tideline('Unheard');
    });
    await sleep(300); // visit() fails if the page threw
  }));

test('a script that is included twice counts once', LIMITS, () => {
  const page = (_, gateway) => html(gateway, snippet(gateway) + snippet(gateway));
  return visit(browser, { page }, async ({ gateway, page, url }) => {
    await page.goto(url);
    await page.evaluate(() => tideline('Once'));
    await settles(() => gateway.names(), ['/', 'Once'], 1_000);
    assert.equal(gateway.connections, 1);
  });
});

test('an unknown site is said once in the console and then left', LIMITS, () => {
  const reject = { reason: REASON_UNKNOWN_SITE, message: 'no site "shop" here; add it with --site' };
  return visit(browser, { gateway: { reject } }, async ({ gateway, page, url, warnings }) => {
    await page.goto(url);
    await settles(() => warnings, ['tideline: no site "shop" here; add it with --site'], 1_500);
    await page.evaluate(() => tideline('Unheard'));
    await sleep(800);
    assert.equal(gateway.connections, 1);
    assert.equal(gateway.names().includes('Unheard'), false);
  });
});

const KEY = 'tlk_' + 'k'.repeat(43);
const KEYED = (_, gateway) => html(gateway, snippet(gateway, `data-key="${KEY}"`));

test('the key of the script tag is in the Hello of a session, and in every envelope outside of one', LIMITS, () =>
  visit(browser, { page: KEYED }, async ({ gateway, page, url }) => {
    await page.goto(url);
    await settles(() => gateway.names(), ['/']);
    await page.evaluate(() => tideline('Goodbye'));
    await page.evaluate(() => {
      Object.defineProperty(document, 'visibilityState', { value: 'hidden', configurable: true });
      tideline('Hidden');
    });
    await until(() => gateway.transmissions.some(({ via }) => via === 'post'));
    await settles(() => gateway.names(), ['/', 'Goodbye', 'Hidden']);
    assert.deepEqual(gateway.hellos.map(({ site, agentVersion, key }) => [site, agentVersion, key]), [['shop', '0.1.0', KEY]]);
    for (const { via, key } of gateway.transmissions) assert.equal(key, via === 'post' ? KEY : '', via);
  }));

test('so it is in what the small encoder sends', LIMITS, () =>
  visit(browser, { page: KEYED, gateway: { without: ['tideline.wasm', 'tideline-core.js'] } }, async ({ gateway, page, url }) => {
    await page.goto(url);
    await settles(() => gateway.names(), ['/']);
    assert.deepEqual(gateway.transmissions.map(({ via, site, key }) => [via, site, key]), [['post', 'shop', KEY]]);
  }));

test('without a key nothing is said of one', LIMITS, () =>
  visit(browser, {}, async ({ gateway, page, url }) => {
    await page.goto(url);
    await settles(() => gateway.names(), ['/']);
    assert.deepEqual(['key' in gateway.hellos[0], gateway.transmissions[0].key], [false, '']);
  }));

test('a key that is not the site\'s is said once in the console, and the agent stops', LIMITS, () => {
  const reject = { reason: REASON_WRONG_KEY, message: 'the site wants one of its keys' };
  return visit(browser, { page: KEYED, gateway: { reject } }, async ({ gateway, page, url, warnings }) => {
    await page.goto(url);
    await settles(() => warnings, ['tideline: the site wants one of its keys'], 1_500);
    await page.evaluate(() => tideline('Unheard'));
    await sleep(800);
    assert.equal(gateway.connections, 1);
    assert.equal(gateway.names().includes('Unheard'), false);
  });
});

test('what a site in debug mode is told of its events is said in the console, and nothing else comes of it', LIMITS, () => {
  const notice = { event: 1, reason: REASON_SCHEMA_EVENT, message: 'not counted: the schema has no such event' };
  return visit(browser, { gateway: { notice } }, async ({ gateway, page, url, warnings }) => {
    await page.goto(url);
    await settles(() => warnings, ['tideline: not counted: the schema has no such event'], 1_500);
    await page.evaluate(() => tideline('Signup'));
    await settles(() => gateway.names(), ['/', 'Signup']);
    await settles(() => gateway.numbers(), [1, 1], 1_500);
    assert.equal(gateway.connections, 1);
  });
});

const WITHOUT_CORE = ['tideline.wasm', 'tideline-core.js'];

const withoutWasm = (gateway) => `script-src ${gateway.url} 'unsafe-inline'; connect-src *`;

test('where a policy forbids WebAssembly the same core runs as JavaScript', LIMITS, () => {
  const page = (_, gateway) =>
    html(gateway, `<meta http-equiv="Content-Security-Policy" content="${withoutWasm(gateway)}">${snippet(gateway)}`);
  return visit(browser, { page }, async ({ gateway, page, url }) => {
    await page.goto(url);
    await page.evaluate(() => tideline('Signup', { props: { plan: 'größer' } }));
    await settles(() => gateway.names(), ['/', 'Signup']);
    assert.deepEqual(gateway.events()[1].props, { plan: 'größer' });
    assert.equal(gateway.transmissions[0].via, 'socket');
  });
});

test('where no core can be had the small encoder delivers, repeats included', LIMITS, () =>
  visit(browser, { gateway: { without: WITHOUT_CORE } }, async ({ gateway, page, url }) => {
    await page.goto(url);
    await page.evaluate(() => tideline('Signup', { props: { plan: 'größer' } }));
    await settles(() => gateway.names(), ['/', 'Signup']);
    await page.evaluate(() => history.pushState({}, '', '/two'));
    await settles(() => gateway.names(), ['/', 'Signup', '/two'], 1_000);
    assert.ok(gateway.transmissions.every(({ via }) => via === 'post'));
  }));

test('without a core a failing proxy is not taken for an answer', LIMITS, () =>
  visit(browser, { gateway: { failsPosts: 1, without: WITHOUT_CORE } }, async ({ gateway, page, url }) => {
    await page.goto(url);
    await until(() => gateway.failsPosts === 0);
    await sleep(1_500); // what has been posted is posted again after a second
    await page.goto('about:blank');
    await settles(() => gateway.names(), ['/']);
  }));

const manyLarge = () => {
  for (let number = 0; number < 40; number++) tideline(`Large ${number}`, { props: { text: `${number}`.padEnd(1_000, 'ß') } });
  tideline('Huge', { props: { text: 'x'.repeat(300_000) } });
  tideline('Last');
};
const NAMES_OF_MANY = ['/', ...Array.from({ length: 40 }, (_, number) => `Large ${number}`), 'Last'];

const assertWholeBatches = (gateway) => {
  const seqs = new Set(gateway.events().map(({ seq }) => seq));
  assert.ok(seqs.size >= 5, `${seqs.size} batches`);
  assert.equal(new Set(gateway.events().map(({ sid }) => sid)).size, 1);
  assert.ok(gateway.transmissions.every(({ bytes }) => bytes.length <= 16 * 1024));
  const reports = new Map(gateway.transmissions.map(({ batch }) => [batch.seq, batch.givenUp]));
  const givenUp = [...reports.values()].flat().map(({ reason, events }) => [reason, events]);
  assert.deepEqual(givenUp, [[REASON_TOO_LARGE, 1]]);
};

test('without a core much leaves in batches of the usual size', LIMITS, () =>
  visit(browser, { gateway: { without: WITHOUT_CORE } }, async ({ gateway, page, url }) => {
    await page.goto(url);
    await settles(() => gateway.names(), ['/']);
    await page.evaluate(manyLarge);
    for (let round = 0; round < 4; round++) {
      await sleep(700); // what waits for answers goes with the next event
      await page.evaluate((number) => tideline(`Round ${number}`), round);
    }
    const rounds = Array.from({ length: 4 }, (_, round) => `Round ${round}`);
    await settles(() => gateway.names().sort(), [...NAMES_OF_MANY, ...rounds].sort());
    assertWholeBatches(gateway);
  }));

test('much that was sent before the core came is taken over, and the core goes on at the right number', LIMITS, () =>
  visit(browser, { gateway: { fileDelay: 1_500, acknowledges: false } }, async ({ gateway, page, url }) => {
    await page.goto(url);
    await page.evaluate(manyLarge);
    await page.evaluate(() => {
      Object.defineProperty(document, 'visibilityState', { value: 'hidden', configurable: true });
      document.dispatchEvent(new Event('visibilitychange'));
    });
    await until(() => gateway.transmissions.length === 2);
    gateway.acknowledges = true;
    await page.evaluate(() => Object.defineProperty(document, 'visibilityState', { value: 'visible', configurable: true }));
    await until(() => gateway.transmissions.some(({ via }) => via === 'socket'));
    await sleep(1_000);
    await page.evaluate(() => tideline('After'));
    await until(() => gateway.names().includes('After'));
    const sent = gateway.transmissions.filter(({ via }) => via === 'socket').map(({ batch }) => batch.seq);
    assert.deepEqual(sent, Array.from(sent, (_, place) => place + 1)); // 1 and 2 again, then the core's own
    // Each is counted, or reported as given up for want of room.
    const reports = [...new Map(gateway.transmissions.map(({ batch }) => [batch.seq, batch.givenUp])).values()].flat();
    const givenUp = reports.reduce((sum, { events }) => sum + events, 0);
    assert.equal(gateway.names().length + givenUp, NAMES_OF_MANY.length + 2);
  }));

test('a page that breaks what the agent stands on does not hear of it', LIMITS, () => {
  const init = () => {
    window.WebSocket = function () {
      throw new Error('no sockets');
    };
  };
  return visit(browser, { init }, async ({ gateway, page, url }) => {
    await page.goto(url);
    await page.evaluate(() => {
      tideline();
      tideline({}, { props: { bad: { toString: null } } });
      tideline('Fine', null);
    });
    await settles(() => gateway.names().includes('Fine'), true);
  });
});

test('bytes on the wire per event, printed', LIMITS, () =>
  visit(browser, {}, async ({ gateway, page, url }) => {
    await page.goto(url);
    for (let number = 0; number < 20; number++) {
      await page.evaluate((n) => tideline('Add to cart', { props: { product: `blanket ${n % 4}` } }), number);
    }
    await until(() => gateway.names().length === 21);
    const bytes = gateway.transmissions.reduce((sum, transmission) => sum + transmission.bytes.length, 0);
    console.log(`# ${gateway.names().length} events in ${gateway.transmissions.length} batches of ${bytes} bytes:` +
      ` ${(bytes / gateway.names().length).toFixed(1)} bytes an event`);
  }));
