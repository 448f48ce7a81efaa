// The dashboard as a person sees it: the one-time link, a fresh site that turns live, figures that move, a filter.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Instance, launch, person, until } from './instance.mjs';

const LIMITS = { timeout: 120_000 };

let instance;
let browser;
before(async () => {
  instance = await Instance.start();
  browser = await launch();
}, { timeout: 150_000 });
after(async () => {
  await browser?.close();
  await instance?.stop();
});

test('without signing in there is nothing to see, and a link works once', LIMITS, async () => {
  const stranger = await person(browser);
  const page = await stranger.newPage();
  await page.goto(instance.central);
  await page.getByText(/sign-in link/).first().waitFor();
  const answer = await page.request.post(`${instance.central}/api/v2/query`, { data: { site_id: 'demo', metrics: ['visitors'], date_range: 'all' } });
  assert.equal(answer.status(), 401);
  await stranger.close();
});

test('a fresh site shows its snippet, turns live by itself, and answers a click', LIMITS, async () => {
  const owner = await person(browser);
  const dashboard = await owner.newPage();
  const errors = [];
  dashboard.on('pageerror', (error) => errors.push(String(error)));
  await dashboard.goto(instance.signIn);
  await dashboard.waitForURL((url) => !url.pathname.includes('sign-in'));
  await dashboard.getByText('data-site="demo"').first().waitFor();
  const cookies = await owner.cookies();
  assert.ok(cookies.length === 1 && cookies[0].httpOnly && cookies[0].sameSite !== 'None');
  assert.ok(!(await dashboard.content()).includes(instance.key), 'no key in the page');

  const visitor = await person(browser);
  const shop = await visitor.newPage();
  await shop.goto(`${instance.shop}/?utm_source=newsletter`);
  await dashboard.getByText(/current visitor/i).first().waitFor({ timeout: 15_000 });
  await until('a page in the report', () => dashboard.getByText('newsletter').first().isVisible(), 40_000);
  await dashboard.getByText('newsletter').first().click();
  await until('a filter in the address', () => dashboard.url().includes('newsletter'), 5_000);
  const ledger = dashboard.getByRole('region', { name: 'What was counted' });
  await until('the ledger says that all was counted', async () => {
    const words = await ledger.innerText();
    return words.includes('100%') && /All \d+ events that pages sent were counted, each exactly once/.test(words);
  }, 40_000);
  const { sent, counted, dropped } = await instance.ask('GET', '/api/v2/ledger?site_id=demo');
  assert.ok(sent > 0 && sent === counted + dropped.events, `${sent} sent, ${counted} counted, ${dropped.events} dropped`);
  assert.deepEqual(errors, []);
  await visitor.close();

  const second = await person(browser);
  const page = await second.newPage();
  await page.goto(instance.signIn);
  assert.equal((await second.cookies()).length, 0, 'the link worked twice');
  await second.close();
  await owner.close();
});
