'use strict';
// Joins the picture and the list: shapes of piece i have the class "p" + i.
const { pieces, seconds, shown_at } = JSON.parse(document.getElementById('data').textContent);
const [svg, search, found, rows, story] =
  ['svg', '#search', '#found', '#rows', '#story'].map(what => document.querySelector(what));
const LISTED = 400; // rows of the list; the picture has all pieces
const idle = story.textContent;
let kept = null; // the piece that was clicked
let matching = null; // the pieces that the search found, or null without a search
let now = shown_at;

const shapes = new Map();
for (const shape of svg.querySelectorAll('[class]')) {
  const i = indexOf(shape);
  if (i !== null) shapes.set(i, [...(shapes.get(i) ?? []), shape]);
}
function indexOf(element) {
  const name = element?.closest?.('[class]')?.getAttribute('class').match(/\bp(\d+)\b/);
  return name ? Number(name[1]) : null;
}
const isThere = piece => !piece.life || (piece.life[0] <= now && now < piece.life[1]);

function light(chosen) {
  for (const shape of svg.querySelectorAll('.on')) shape.classList.remove('on');
  svg.classList.toggle('focus', chosen !== null);
  for (const i of chosen ?? []) for (const shape of shapes.get(i) ?? []) shape.classList.add('on');
}
function show(i) {
  const one = i ?? kept;
  light(one !== null ? [one] : matching);
  story.textContent = one !== null ? pieces[one].story : idle;
  for (const row of rows.children) row.classList.toggle('on', Number(row.dataset.i) === one);
}
function list() {
  const all = (matching ?? pieces.keys());
  const there = [...all].filter(i => isThere(pieces[i]));
  const pages = there.reduce((sum, i) => sum + pieces[i].pages, 0);
  found.textContent = `${there.length} of ${pieces.length}, ${(pages / 256).toFixed(1)} MiB`;
  rows.replaceChildren(...there.slice(0, LISTED).map(i => {
    const piece = pieces[i], row = document.createElement('tr');
    row.dataset.i = i;
    for (const text of [piece.place, piece.size, piece.state, piece.runs || '', `${piece.more} ${piece.label}`]) {
      row.insertCell().textContent = text;
    }
    const dot = document.createElement('i');
    dot.style.background = piece.colour;
    row.cells[2].prepend(dot);
    return row;
  }));
}
for (const place of [svg, rows]) {
  const at = event => place === rows ? event.target.closest('tr')?.dataset.i ?? null : indexOf(event.target);
  place.addEventListener('mouseover', event => show(at(event) === null ? null : Number(at(event))));
  place.addEventListener('mouseleave', () => show(null));
  place.addEventListener('click', event => {
    kept = at(event) === null || Number(at(event)) === kept ? null : Number(at(event));
    show(null);
  });
}
const seek = () => {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = piece => words.every(word => piece.story.toLowerCase().includes(word));
  matching = words.length ? [...pieces.keys()].filter(i => fits(pieces[i])) : null;
  list();
  show(matching?.length === 1 ? matching[0] : null);
};
search.addEventListener('input', seek);
document.querySelector('form').addEventListener('submit', event => event.preventDefault());
if (seconds !== null) {
  const time = document.getElementById('time'), line = document.getElementById('now');
  const move = () => {
    now = Number(time.value);
    document.getElementById('at').textContent = `${now.toFixed(3)} s`;
    const y = Number(line.dataset.top) + now / seconds * Number(line.dataset.height);
    line.setAttribute('y1', y);
    line.setAttribute('y2', y);
    pieces.forEach((piece, i) => {
      for (const shape of shapes.get(i) ?? []) {
        if (!shape.classList.contains('l')) shape.classList.toggle('off', !isThere(piece));
      }
    });
    list();
  };
  time.value = shown_at;
  time.addEventListener('input', move);
  move();
}
// A link may bring its search along: map.html#frozen
search.value = decodeURIComponent(location.hash.slice(1));
seek();
