// The page in the browser: follows the stream of the address, puts changed parts in place, counts times, sends what is chosen.
// The token comes in the fragment of the first address, stays in this tab, and is sent as a header.
'use strict';

const main = document.getElementById('main');
const head = document.getElementById('head');
const said = document.getElementById('said');
const chosen = new Map();

function readToken() {
  const given = location.hash.slice(1);
  if (/^[0-9a-f]{48}$/.test(given)) {
    sessionStorage.setItem('token', given);
    history.replaceState(null, '', location.pathname + location.search);
  }
  return sessionStorage.getItem('token');
}
let token = readToken();

function say(text) {
  said.textContent = text;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => { said.textContent = ''; }, 8000);
}

function ask(path, options = {}) {
  const headers = { 'X-Coding-Loops-Token': token || '', ...options.headers };
  return fetch(path, { ...options, headers, cache: 'no-store', credentials: 'omit', redirect: 'error', referrerPolicy: 'no-referrer' });
}

// ---- Following a page

let following = null;
let shown = '';

function address() {
  const query = new URLSearchParams(location.search);
  // What is left of the window within the frames of page.css, in steps, so that windows of almost the same size share a page.
  const frames = innerWidth > 640 ? 74 : 42;
  query.set('width', String(Math.max(280, Math.floor((main.clientWidth - frames) / 10) * 10)));
  return '/live' + location.pathname + '?' + query;
}

async function follow() {
  const own = new AbortController();
  if (following) following.abort();
  following = own;
  let pause = 500;
  while (following === own) {
    try {
      shown = address();
      const answer = await ask(shown, { signal: own.signal });
      if (!answer.ok) {
        fail(await answer.text());
        return;
      }
      connection('');
      pause = 500;
      await read(answer.body.getReader(), own);
    } catch (error) {
      if (own.signal.aborted) return;
    }
    if (following !== own) return;
    connection('Not connected. Trying again …');
    await new Promise((resolve) => setTimeout(resolve, pause));
    pause = Math.min(pause * 2, 10000);
  }
}

async function read(reader, own) {
  const decoder = new TextDecoder();
  let text = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done || following !== own) return;
    text += decoder.decode(value, { stream: true });
    for (let end = text.indexOf('\n\n'); end >= 0; end = text.indexOf('\n\n')) {
      take(text.slice(0, end));
      text = text.slice(end + 2);
    }
  }
}

function take(message) {
  let name = '';
  const data = [];
  for (const line of message.split('\n')) {
    if (line.startsWith('event: ')) name = line.slice(7);
    else if (line.startsWith('data: ')) data.push(line.slice(6));
  }
  if (!data.length) return;
  const value = JSON.parse(data.join('\n'));
  if (name === 'page') begin(value);
  else if (name === 'part') put(value);
}

function fail(text) {
  main.replaceChildren();
  const p = document.createElement('p');
  p.className = 'nothing';
  p.textContent = text;
  main.append(p);
}

function connection(text) {
  const place = document.getElementById('connection');
  if (place) place.textContent = text;
  document.body.classList.toggle('lost', text !== '');
}

// By how many milliseconds the times on the page are ahead of this clock.
let ahead = 0;

function begin({ title, parts, ahead: found }) {
  ahead = found;
  document.title = title + ' · coding-loops';
  const places = parts.filter((id) => id !== 'head').map((id) => {
    const known = document.getElementById('part-' + id);
    if (known) return known;
    const section = document.createElement('section');
    section.id = 'part-' + id;
    section.className = 'card';
    return section;
  });
  main.replaceChildren(...places);
  main.classList.remove('old');
}

function put({ id, html }) {
  const place = id === 'head' ? head : document.getElementById('part-' + id);
  if (!place) return;
  const kept = keep(place);
  place.innerHTML = html;
  restore(place, kept);
  tick();
  find();
  choose();
  if (location.hash.startsWith('#q-') && place.querySelector(location.hash.replace(/[^#a-zA-Z0-9_-]/g, ''))) {
    document.getElementById(location.hash.slice(1)).scrollIntoView();
    history.replaceState(null, '', location.pathname + location.search);
  }
}

// What a person has opened, typed, chosen and scrolled stays when a part is replaced.
function keep(place) {
  const all = [...place.querySelectorAll('[id]')];
  const live = document.getElementById('live-output');
  return {
    focus: place.contains(document.activeElement) ? path(document.activeElement) : null,
    open: new Map(all.filter((one) => one.tagName === 'DETAILS').map((one) => [one.id, one])),
    values: new Map(all.filter((one) => 'value' in one && one.tagName !== 'BUTTON').map((one) => [one.id, one.type === 'checkbox' ? one.checked : one.value])),
    scrolled: [...place.querySelectorAll('.scroll, .drawing')].map((one) => one.scrollLeft),
    atEnd: live && place.contains(live) ? live.scrollHeight - live.scrollTop - live.clientHeight < 20 : true,
    top: live ? live.scrollTop : 0,
  };
}

function path(element) {
  if (element.id) return '#' + CSS.escape(element.id);
  for (const name of ['data-body', 'data-option', 'href']) {
    if (element.hasAttribute(name)) return `${element.tagName}[${name}=${CSS.escape(element.getAttribute(name))}]`;
  }
  return null;
}

function restore(place, kept) {
  for (const [id, old] of kept.open) {
    const now = document.getElementById(id);
    if (!now || now.tagName !== 'DETAILS') continue;
    // What was fetched already stays; a page does not fetch it again for each change.
    if (now.classList.contains('lazy') && old.dataset.done && old.dataset.src === now.dataset.src) now.replaceWith(old);
    else now.open = old.open;
  }
  for (const [id, value] of kept.values) {
    const now = document.getElementById(id);
    if (!now) continue;
    if (now.type === 'checkbox') now.checked = value;
    else if (!('option' in now.dataset)) now.value = value;
  }
  place.querySelectorAll('.scroll, .drawing').forEach((one, at) => { one.scrollLeft = kept.scrolled[at] || 0; });
  const live = document.getElementById('live-output');
  if (live && place.contains(live)) live.scrollTop = kept.atEnd ? live.scrollHeight : kept.top;
  const focus = kept.focus && place.querySelector(kept.focus);
  if (focus) focus.focus({ preventScroll: true });
}

// ---- Times

function span(seconds) {
  seconds = Math.max(0, Math.floor(seconds));
  const two = (number) => String(number).padStart(2, '0');
  if (seconds < 60) return `${seconds}s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m ${two(seconds % 60)}s`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)}h ${two(Math.floor(seconds % 3600 / 60))}m`;
  return `${Math.floor(seconds / 86400)}d ${Math.floor(seconds % 86400 / 3600)}h`;
}

const clock = new Intl.DateTimeFormat([], { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' });
const brief = new Intl.DateTimeFormat([], { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' });
const day = new Intl.DateTimeFormat([], { month: 'short', day: 'numeric' });

function set(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function tick() {
  const now = Date.now() + ahead;
  for (const one of document.querySelectorAll('[data-since]')) set(one, span((now - one.dataset.since) / 1000));
  for (const one of document.querySelectorAll('[data-until]')) {
    const left = (one.dataset.until - now) / 1000;
    set(one, left > 0 ? span(left) : 'a moment');
  }
  for (const one of document.querySelectorAll('[data-at]')) {
    const time = new Date(Number(one.dataset.at));
    const step = Number(one.dataset.step || 1);
    const isToday = time.toDateString() === new Date(now).toDateString();
    if ('step' in one.dataset) set(one, step >= 86400 ? day.format(time) : step >= 60 ? brief.format(time) : clock.format(time));
    else set(one, (isToday ? '' : day.format(time) + ' ') + clock.format(time));
  }
  for (const one of document.querySelectorAll('[data-beat]')) {
    const age = (now - one.dataset.beat) / 1000;
    const state = age > one.dataset.dead ? ['bad', 'no heartbeat'] : age > one.dataset.late ? ['warning', 'late'] : null;
    if (state) {
      one.className = 'badge ' + state[0];
      set(one, state[1]);
    }
  }
}
setInterval(tick, 1000);

// ---- Changing something

async function act(name, body) {
  try {
    const answer = await ask('/do/' + name, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) });
    const text = await answer.text();
    say(answer.ok ? JSON.parse(text).said : text);
    return answer.ok;
  } catch (error) {
    say('Not sent: loopctl web does not answer.');
    return false;
  }
}

function comment(id) {
  const field = document.querySelector(`[data-comment=${CSS.escape(id)}]`);
  return field ? field.value : '';
}

async function answer(pairs) {
  const answers = pairs.map(([id, option]) => ({ id, option, comment: comment(id) }));
  const buttons = answers.flatMap(({ id }) => [...document.querySelectorAll(`[data-answer=${CSS.escape(id)}]`)]);
  buttons.forEach((button) => { button.disabled = true; });
  if (!await act('answer', { answers })) buttons.forEach((button) => { button.disabled = false; });
}

// The options that all chosen questions have, and the default of each.
function choose() {
  const boxes = [...document.querySelectorAll('[data-choose]:checked')];
  const bar = document.querySelector('.several');
  if (!bar) return;
  bar.hidden = boxes.length === 0;
  set(document.getElementById('chosen'), String(boxes.length));
  const lists = boxes.map((box) => JSON.parse(box.dataset.options));
  const common = (lists[0] || []).filter((option) => lists.every((list) => list.includes(option)));
  const place = document.getElementById('common');
  const offers = common.map((option) => [option, boxes.map((box) => [box.dataset.choose, option])]);
  if (boxes.length && boxes.every((box) => box.dataset.default)) {
    offers.push(['the default of each', boxes.map((box) => [box.dataset.choose, box.dataset.default])]);
  }
  place.replaceChildren(...offers.map(([text, pairs]) => {
    const button = document.createElement('button');
    button.className = 'option';
    button.textContent = text;
    button.addEventListener('click', () => answer(pairs));
    return button;
  }));
  if (boxes.length && !offers.length) place.textContent = 'they have no option in common';
}

// ---- What a person does

function go(url, replace) {
  history[replace ? 'replaceState' : 'pushState'](null, '', url);
  main.classList.add('old');
  follow();
  if (!replace) scrollTo(0, 0);
}

document.addEventListener('click', (event) => {
  const target = event.target;
  const button = target.closest('button');
  if (button && button.dataset.answer) {
    answer([[button.dataset.answer, button.dataset.option]]);
  } else if (button && button.dataset.do) {
    if (button.dataset.confirm && !confirm(button.dataset.confirm)) return;
    act(button.dataset.do, JSON.parse(button.dataset.body));
  }
  const link = target.closest('a[href^="/"]');
  if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey && event.button === 0) {
    event.preventDefault();
    go(link.getAttribute('href') || link.href.baseVal);
  }
});

document.addEventListener('toggle', async (event) => {
  const details = event.target;
  if (!details.open || !details.classList.contains('lazy') || details.dataset.done) return;
  details.dataset.done = 'yes';
  const place = details.querySelector(':scope > div');
  place.textContent = 'Loading …';
  const answer = await ask(details.dataset.src).catch(() => null);
  if (answer && answer.ok) {
    place.innerHTML = await answer.text();
    tick();
  } else {
    place.textContent = answer ? await answer.text() : 'loopctl web does not answer.';
    delete details.dataset.done;
  }
}, true);

function find() {
  const field = document.querySelector('[data-find]');
  if (!field) return;
  const wanted = field.value.trim().toLowerCase();
  for (const one of document.querySelectorAll(field.dataset.find + ' li')) {
    one.hidden = wanted !== '' && !one.firstElementChild.title.toLowerCase().includes(wanted);
  }
}

document.addEventListener('input', (event) => {
  if (event.target.dataset.find) find();
});

document.addEventListener('change', (event) => {
  const field = event.target;
  if (field.dataset.choose) choose();
  else if (field.tagName !== 'BUTTON' && 'option' in field.dataset) {
    const query = new URLSearchParams(location.search);
    query.delete('until');
    if (field.value) query.set(field.dataset.option, field.value.trim());
    else query.delete(field.dataset.option);
    go(location.pathname + (query.size ? '?' + query : ''));
  }
});

// One key for each view, as long as nobody types.
document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches('input, textarea, select')) return;
  const page = { n: '/', q: '/questions', t: '/tests', c: '/cost', s: '/story' }[event.key];
  if (page) go(page);
});

addEventListener('popstate', () => follow());
addEventListener('hashchange', () => {
  const given = readToken();
  if (given !== token) {
    token = given;
    follow();
  }
});
addEventListener('resize', () => {
  clearTimeout(follow.timer);
  follow.timer = setTimeout(() => { if (address() !== shown) follow(); }, 300);
});

if (token) follow();
else fail('Open the address that loopctl web printed: it has the token that this page needs.');
