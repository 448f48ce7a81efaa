// Each transport knocked away in turn, seen from the gateway: what is tried, in which order, and that nothing is counted twice.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { REASON_UNKNOWN_SITE } from './gateway.mjs';
import { CONSENTS, html, launch, settles, snippet, until, visit } from './browser.mjs';

let browser;
before(async () => {
  browser = await launch();
});
after(() => browser.close());

const LIMITS = { timeout: 60_000 };
const WEB_TRANSPORT = (gateway, more = '') => html(gateway, snippet(gateway, `data-webtransport="${gateway.webTransport}" ${more}`));
const NO_SOCKET = { upgrades: false };
const NO_CALL = { ...NO_SOCKET, grpc: 'missing' };

const ways = (gateway) => [...new Set(gateway.transmissions.map(({ via }) => via))];
const track = (page, name) => page.evaluate((called) => tideline(called), name);
const stored = (page) => page.evaluate(() => ({ ...sessionStorage }));

// Everything arrived by this way alone, once.
const assertOnly = (gateway, via) => {
  assert.deepEqual(ways(gateway), [via]);
  assert.deepEqual(gateway.numbers(), gateway.numbers().map(() => 1));
  assert.ok(gateway.transmissions.every(({ site }) => site === (via === 'socket' ? '' : 'shop')));
};

// A pageview and two events, each in a batch of its own.
const threeBatches = async ({ gateway, page, url }, path = '/') => {
  await page.goto(url + path);
  await settles(() => gateway.names(), [path]);
  await track(page, 'Signup');
  await settles(() => gateway.names(), [path, 'Signup']);
  await track(page, 'Order');
  await settles(() => gateway.names(), [path, 'Signup', 'Order']);
};

test('where no datagram is answered a socket is next', LIMITS, () =>
  visit(browser, { page: (_, gateway) => WEB_TRANSPORT(gateway, `data-certificate-hash="${'0f'.repeat(32)}"`) }, async (story) => {
    const { gateway } = story;
    await threeBatches(story);
    assert.deepEqual(gateway.tried, ['datagram', 'socket']);
    assertOnly(gateway, 'socket');
  }));

test('a certificate hash that is none is said in the console, and a socket delivers', LIMITS, () =>
  visit(browser, { page: (_, gateway) => WEB_TRANSPORT(gateway, 'data-certificate-hash="0f:0f"') }, async (story) => {
    const { gateway, warnings } = story;
    await threeBatches(story);
    assert.deepEqual(warnings, ['tideline: data-certificate-hash needs 64 hex digits']);
    assert.deepEqual(gateway.tried, ['socket']);
  }));

test('where sockets are refused calls carry everything', LIMITS, () =>
  visit(browser, { gateway: NO_SOCKET }, async (story) => {
    const { gateway } = story;
    await threeBatches(story);
    assert.deepEqual(gateway.tried, ['socket', 'grpc']);
    assertOnly(gateway, 'grpc');
    assert.deepEqual(gateway.hellos.map(({ site, agentVersion }) => [site, agentVersion]), [['shop', '0.1.0']]);
  }));

for (const [via, gateway] of [['grpc', NO_SOCKET], ['post', NO_CALL]]) {
  test(`the key of the script tag is in everything that goes by ${via}`, LIMITS, () => {
    const page = (_, gateway) => html(gateway, snippet(gateway, 'data-key="tlk_page"'));
    return visit(browser, { gateway, page }, async (story) => {
      const { gateway } = story;
      await threeBatches(story);
      assertOnly(gateway, via);
      assert.ok(gateway.transmissions.every(({ key }) => key === 'tlk_page'));
      assert.ok(gateway.hellos.every(({ site, key }) => site === 'shop' && key === 'tlk_page'));
    });
  });
}

for (const grpc of ['missing', 'unavailable']) {
  test(`where sockets are refused and calls are ${grpc} requests carry everything`, LIMITS, () =>
    visit(browser, { gateway: { ...NO_SOCKET, grpc } }, async (story) => {
      const { gateway } = story;
      await threeBatches(story);
      assert.deepEqual(gateway.tried, ['socket', 'grpc', 'post']);
      assertOnly(gateway, 'post');
    }));
}

test('every transport but the last knocked away at once', LIMITS, () =>
  visit(browser, { gateway: NO_CALL, page: (_, gateway) => WEB_TRANSPORT(gateway) }, async (story) => {
    const { gateway } = story;
    await threeBatches(story);
    assert.deepEqual(gateway.tried, ['datagram', 'socket', 'grpc', 'post']);
    assertOnly(gateway, 'post');
  }));

for (const swallows of ['handshakes', 'messages']) {
  test(`where the ${swallows} of sockets vanish without a word requests deliver meanwhile, and calls then`, LIMITS, () =>
    visit(browser, { gateway: { swallows } }, async ({ gateway, page, url }) => {
      await page.goto(url);
      await until(() => gateway.names().length === 1);
      assert.deepEqual(ways(gateway), ['post']);
      await until(() => gateway.hellos.length === 1);
      assert.deepEqual(gateway.tried, ['socket', 'post', 'grpc']);
      await track(page, 'Later');
      await settles(() => gateway.names(), ['/', 'Later']);
      assert.equal(gateway.transmissions.at(-1).via, 'grpc');
    }));
}

test('where sockets and calls vanish without a word requests deliver', LIMITS, () =>
  visit(browser, { gateway: { swallows: 'messages', grpc: 'swallows' } }, async ({ gateway, page, url }) => {
    await page.goto(url);
    await until(() => gateway.tried.includes('grpc'));
    for (const name of ['One', 'Two']) await track(page, name);
    await settles(() => gateway.names(), ['/', 'One', 'Two'], 2_500);
    await track(page, 'Later');
    await settles(() => gateway.names(), ['/', 'One', 'Two', 'Later']);
    assert.deepEqual(ways(gateway), ['post']);
    assert.deepEqual(gateway.hellos, []);
  }));

// Everything but the answers to batches comes through, also what a subscription says now and then.
for (const [transport, below, refuses] of [
  ['socket', 'grpc', { swallows: 'batches' }],
  ['grpc', 'post', { ...NO_SOCKET, grpc: 'swallows batches', heartbeatMs: 200 }],
]) {
  test(`where a ${transport} is welcome and then swallows batches ${below} is next`, LIMITS, () =>
    visit(browser, { gateway: refuses }, async ({ gateway, page, url }) => {
      await page.goto(url);
      await until(() => gateway.swallowed === 1 && gateway.hellos.length === 1);
      await page.evaluate(() => {
        const now = Date.now;
        Date.now = () => now() + 31_000; // the core does not wait longer for an answer
        tideline('Later');
      });
      await settles(() => gateway.names(), ['/', 'Later']);
      gateway.tried = [];
      await track(page, 'Last');
      await settles(() => gateway.names(), ['/', 'Later', 'Last']);
      assert.deepEqual([gateway.transmissions.at(-1).via, gateway.tried], [below, [below]]);
      assert.equal(gateway.hellos.length, below === 'grpc' ? 2 : 1);
    }));
}

test('with consent the next page of the visit begins where the last one ended', LIMITS, () =>
  visit(browser, { gateway: NO_CALL, page: CONSENTS }, async ({ gateway, page, url }) => {
    await page.goto(`${url}/first`);
    await settles(() => gateway.names(), ['/first']);
    assert.deepEqual(gateway.tried, ['socket', 'grpc', 'post']);
    gateway.tried = [];
    await page.goto(`${url}/second`);
    await settles(() => gateway.names(), ['/first', '/second']);
    assert.deepEqual(gateway.tried, ['post']);
    assert.deepEqual(Object.keys(await stored(page)), ['tideline/shop']);
    await page.evaluate(() => tideline('consent', 'denied'));
    assert.deepEqual(await stored(page), {});
  }));

test('it is remembered for some minutes, by pages with WebTransport and without alike', LIMITS, async () => {
  for (const [agoMs, tried] of [[500_000, ['grpc']], [700_000, ['socket']]]) {
    const init = `sessionStorage.setItem('tideline/shop', '2,' + (Date.now() - ${agoMs}))`;
    await visit(browser, { page: CONSENTS, init }, async ({ gateway, page, url }) => {
      await page.goto(url);
      await settles(() => gateway.names(), ['/']);
      assert.deepEqual(gateway.tried, tried);
    });
  }
  const page = (_, gateway) => WEB_TRANSPORT(gateway, 'data-consent="granted"');
  const init = `sessionStorage.setItem('tideline/shop', '2,' + Date.now())`;
  await visit(browser, { page, init }, async ({ gateway, page, url }) => {
    await page.goto(url);
    await settles(() => gateway.names(), ['/']);
    assert.deepEqual(gateway.tried, ['grpc']);
  });
});

test('what is remembered in a form that nobody wrote is nothing', LIMITS, async () => {
  for (const value of ['', 'x', '1', '1.5,$', '-1,$', '9,$', '0,$', 'NaN,$']) {
    const init = `sessionStorage.setItem('tideline/shop', '${value}'.replace('$', Date.now()))`;
    await visit(browser, { page: CONSENTS, init }, async ({ gateway, page, url }) => {
      await page.goto(url);
      await until(() => gateway.names().length === 1, () => `nothing came with ${value}`);
      assert.deepEqual(gateway.tried, ['socket'], value);
    });
  }
});

test('a good connection is neither remembered nor left when the page is seen again', LIMITS, () =>
  visit(browser, { page: CONSENTS }, async ({ gateway, page, url }) => {
    await page.goto(url);
    await settles(() => gateway.names(), ['/']);
    await page.evaluate(() => document.dispatchEvent(new Event('visibilitychange')));
    await settles(() => [gateway.connections, gateway.open], [1, 1]);
    assert.deepEqual(await stored(page), {});
  }));

test('without consent nothing is remembered on the device, and the next page begins at the top', LIMITS, () =>
  visit(browser, { gateway: NO_SOCKET }, async ({ gateway, page, url }) => {
    await page.goto(`${url}/first`);
    await settles(() => gateway.names(), ['/first']);
    assert.deepEqual(await stored(page), {});
    gateway.tried = [];
    await page.goto(`${url}/second`);
    await settles(() => gateway.names(), ['/first', '/second']);
    assert.deepEqual(gateway.tried, ['socket', 'grpc']);
    assert.deepEqual(await stored(page), {});
    await page.evaluate(() => tideline('consent', 'granted'));
    assert.deepEqual(Object.keys(await stored(page)), ['tideline/shop']);
  }));

test('a good connection that breaks comes back on its own transport', LIMITS, () =>
  visit(browser, { gateway: NO_SOCKET }, async ({ gateway, page, url }) => {
    await page.goto(url);
    await settles(() => gateway.names(), ['/']);
    gateway.tried = [];
    gateway.upgrades = true;
    gateway.cut();
    await until(() => gateway.hellos.length === 2);
    await track(page, 'Again');
    await settles(() => gateway.names(), ['/', 'Again']);
    assert.deepEqual(gateway.tried, ['grpc']);
    assertOnly(gateway, 'grpc');
  }));

test('after some minutes who comes back to the page tries again what did not get through', LIMITS, () =>
  visit(browser, { gateway: NO_SOCKET }, async ({ gateway, page, url }) => {
    await page.goto(url);
    await settles(() => gateway.names(), ['/']);
    gateway.tried = [];
    gateway.upgrades = true;
    const comesBack = (laterMs) =>
      page.evaluate((ms) => {
        const now = Date.now;
        Date.now = () => now() + ms;
        document.dispatchEvent(new Event('visibilitychange'));
      }, laterMs);
    await comesBack(60_000);
    await settles(() => gateway.tried, []);
    await comesBack(600_000);
    await until(() => gateway.hellos.length === 2);
    await track(page, 'Better');
    await settles(() => gateway.names(), ['/', 'Better']);
    assert.deepEqual(gateway.tried, ['socket']);
    assert.deepEqual([gateway.transmissions.at(-1).via, gateway.open], ['socket', 1]);
  }));

test('where nothing got through everything is tried again, from the top', LIMITS, () =>
  visit(browser, { gateway: NO_SOCKET }, async ({ gateway, page, url }) => {
    await page.goto(url);
    await settles(() => gateway.names(), ['/']);
    gateway.tried = [];
    gateway.away = true;
    gateway.cut();
    await track(page, 'Waits');
    await until(() => gateway.tried.length === 3);
    assert.deepEqual(gateway.tried, ['grpc', 'post', 'socket']);
    assert.deepEqual(gateway.names(), ['/']);
    Object.assign(gateway, { away: false, upgrades: true });
    await settles(() => gateway.names(), ['/', 'Waits']);
  }));

test("a proxy's error page is no answer to a request", LIMITS, () =>
  visit(browser, { gateway: { ...NO_CALL, failsPosts: 1 } }, async (story) => {
    const { gateway } = story;
    await threeBatches(story);
    assert.equal(gateway.failsPosts, 0);
    assertOnly(gateway, 'post');
  }));

test('a gateway that leaves is left by calls too, and nothing is repeated', LIMITS, () =>
  visit(browser, { gateway: NO_SOCKET }, async ({ gateway, page, url }) => {
    await page.goto(url);
    await settles(() => gateway.names(), ['/']);
    gateway.tried = [];
    gateway.drain(200);
    await until(() => gateway.hellos.length === 2);
    await settles(() => gateway.open, 1);
    await track(page, 'Elsewhere');
    await settles(() => gateway.names(), ['/', 'Elsewhere']);
    assert.deepEqual(gateway.tried, ['grpc']);
    assertOnly(gateway, 'grpc');
  }));

test('until then it is not: the end of a subscription that has said so is no failure', LIMITS, () =>
  visit(browser, { gateway: NO_SOCKET }, async ({ gateway, page, url }) => {
    await page.goto(url);
    await settles(() => gateway.names(), ['/']);
    gateway.drain(3_600_000);
    await settles(() => gateway.open, 0, 1_500);
    await track(page, 'Still here');
    await settles(() => gateway.names(), ['/', 'Still here']);
    assert.equal(gateway.hellos.length, 1);
    assertOnly(gateway, 'grpc');
  }));

test('a site that is unknown by calls is said once', LIMITS, () => {
  const reject = { reason: REASON_UNKNOWN_SITE, message: 'no site "shop" here' };
  return visit(browser, { gateway: { ...NO_SOCKET, reject } }, async ({ gateway, page, url, warnings }) => {
    await page.goto(url);
    await settles(() => warnings, ['tideline: no site "shop" here'], 1_500);
    assert.deepEqual(gateway.tried, ['socket', 'grpc']);
  });
});

for (const [transport, refuses] of [['grpc', NO_SOCKET], ['post', NO_CALL]]) {
  test(`a tab closed right after a click is counted, by ${transport}`, LIMITS, () =>
    visit(browser, { gateway: refuses }, async ({ gateway, page, url }) => {
      await page.goto(url);
      await settles(() => gateway.names(), ['/']);
      await track(page, 'Goodbye');
      await page.close({ runBeforeUnload: true });
      await settles(() => gateway.names(), ['/', 'Goodbye']);
    }));

  test(`a page on ${transport} goes into the back-forward cache and comes back`, LIMITS, () =>
    visit(browser, { gateway: refuses }, async ({ gateway, page, url }) => {
      await page.goto(`${url}/first`);
      await settles(() => gateway.names(), ['/first']);
      await page.evaluate(() => (window.survived = true));
      gateway.tried = [];
      await page.goto(`${url}/second`);
      await settles(() => gateway.names(), ['/first', '/second']);
      gateway.tried = [];
      await page.goBack({ waitUntil: 'commit' });
      assert.equal(await page.evaluate(() => window.survived), true, 'the page was kept');
      await settles(() => gateway.names(), ['/first', '/second', '/first']);
      assert.deepEqual(gateway.tried, [transport]);
      assertOnly(gateway, transport);
    }));
}
