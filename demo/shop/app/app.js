// The keeper's desk: one page, three views, each with an address of its own.
const views = [...document.querySelectorAll('.view')];
const links = [...document.querySelectorAll('.views nav a')];
const names = views.map((view) => view.id);

function show() {
  const last = location.pathname.split('/').pop();
  const name = names.includes(last) ? last : names[0];
  for (const view of views) view.hidden = view.id !== name;
  for (const link of links) {
    if (link.dataset.view === name) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  document.title = `${document.getElementById(name).querySelector('h2').textContent} · Harbour & Pine`;

  const feet = new URLSearchParams(location.search).get('unit') === 'ft';
  for (const cell of document.querySelectorAll('[data-metres]')) {
    const metres = Number(cell.dataset.metres);
    cell.textContent = feet ? `${(metres * 3.2808).toFixed(1)} ft` : `${metres.toFixed(1)} m`;
  }
  document.querySelector('[data-unit]').textContent = feet ? 'Show metres' : 'Show feet';
}

for (const link of links) {
  link.addEventListener('click', (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    if (link.href !== location.href) history.pushState(null, '', link.href);
    show();
  });
}

// The unit belongs to the view's address, but going back should not step through it: replaceState.
document.querySelector('[data-unit]').addEventListener('click', (event) => {
  event.preventDefault();
  const feet = new URLSearchParams(location.search).get('unit') === 'ft';
  history.replaceState(null, '', feet ? location.pathname : '?unit=ft');
  show();
});

addEventListener('popstate', show);
show();
