// What the shop does with JavaScript. Every page works without it: buttons are then ordinary forms and links.

// Calls made before the analytics script has loaded wait in a queue that it finds.
window.tideline = window.tideline || function () { (window.tideline.q = window.tideline.q || []).push(arguments); };

const CART = 'harbour-and-pine-cart';

function cart() {
  try { return JSON.parse(sessionStorage.getItem(CART)) || []; } catch { return []; }
}

function keep(goods) {
  try { sessionStorage.setItem(CART, JSON.stringify(goods)); } catch { /* private windows may refuse: the cart is then empty */ }
}

const money = (pence) => '£' + (pence / 100).toFixed(2);
const total = (goods) => goods.reduce((sum, item) => sum + item.pence, 0);

function showCartCount() {
  const link = document.querySelector('[data-cart]');
  const count = cart().length;
  if (link) link.textContent = count ? `Cart (${count})` : 'Cart';
}

// A product's "Add to cart" stays on the page; without JavaScript its form leads to the cart.
for (const form of document.querySelectorAll('form[data-add]')) {
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    const { product, pence } = form.dataset;
    keep([...cart(), { product, pence: Number(pence) }]);
    tideline('Add to cart', { props: { product, price: money(Number(pence)) } });
    form.querySelector('.said').textContent = `${product} is in your cart.`;
    showCartCount();
  });
}

const table = document.querySelector('[data-goods]');
if (table) {
  const goods = cart();
  for (const { product, pence } of goods) {
    const row = table.tBodies[0].insertRow();
    row.insertCell().textContent = product;
    row.insertCell().textContent = money(pence);
  }
  document.querySelector('[data-total]').textContent = money(total(goods));
  document.querySelector('[data-empty]').hidden = goods.length > 0;
}

// The form leaves the page as soon as the event is named: nothing waits for the network.
document.querySelector('form[data-checkout]')?.addEventListener('submit', () => {
  const goods = cart();
  tideline('Checkout', { props: { items: String(goods.length), total: money(total(goods)) } });
  keep([]);
});

for (const form of document.querySelectorAll('form[data-signup]')) {
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    tideline('Signup', { props: { list: form.dataset.signup } });
    form.querySelector('.said').textContent = 'Thank you. The next letter is yours.';
    form.reset();
  });
}

showCartCount();
// A page that comes back from the back/forward cache may have an older count.
addEventListener('pageshow', showCartCount);
