"use strict";

const field = (id) => document.getElementById(id);
const number = (n) => Number(n).toLocaleString("en");
const make = (tag, text, kind) => {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (kind) node.className = kind;
  return node;
};

let info = null;
let page = 0;
let near = null; // the uid whose neighbours are shown
let asked = 0; // answers to older questions are passed over

async function ask(path, query) {
  const response = await fetch(path + "?" + new URLSearchParams(query));
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error + (answer.hint ? " (" + answer.hint + ")" : ""));
  return answer;
}

function question() {
  const query = { page };
  for (const id of ["q", "domain", "reason", "score", "min", "max"]) {
    if (field(id).value !== "") query[id] = field(id).value;
  }
  return query;
}

async function load() {
  const mine = ++asked;
  try {
    const answer = near
      ? await ask("/api/similar", { uid: near })
      : await ask("/api/rows", question());
    if (mine === asked) show(answer);
  } catch (error) {
    if (mine !== asked) return;
    field("grid").replaceChildren(make("p", error.message, "empty"));
    field("count").textContent = "";
    field("pages").hidden = true;
  }
  if (!near) keep();
}

function show(answer) {
  const count = field("count");
  count.replaceChildren();
  if (near) {
    const back = make("button", "← Back");
    back.onclick = () => { near = null; load(); };
    count.append(back, " Nearest by embedding to ", make("b", near));
  } else {
    count.append(make("b", number(answer.total)), " of " + number(info.rows) + " pairs");
  }
  const cards = answer.rows.map(card);
  field("grid").replaceChildren(...(cards.length ? cards : [make("p", "No pair fits.", "empty")]));
  field("pages").hidden = answer.pages < 2;
  field("page").textContent = "Page " + number(answer.page + 1) + " of " + number(answer.pages);
  field("before").disabled = answer.page === 0;
  field("after").disabled = answer.page + 1 >= answer.pages;
}

function card(row) {
  const card = make("article");
  const frame = make("button", undefined, "frame");
  frame.type = "button";
  if (row.picture && info.pictures) {
    const image = make("img");
    image.loading = "lazy";
    image.alt = "";
    image.src = "/picture?" + new URLSearchParams({ shard: row.shard, key: row.key });
    image.onerror = () => { frame.replaceChildren("no picture"); frame.classList.add("none"); };
    frame.append(image);
    frame.title = "Show or hide";
    frame.onclick = () => frame.classList.toggle("shown");
  } else {
    frame.classList.add("none");
    frame.textContent = "no picture";
    frame.disabled = true;
  }
  const said = make("div", undefined, "said");
  said.append(row.caption ? make("p", row.caption) : make("p", "no caption", "no"));
  const tags = make("div", undefined, "tags");
  if (row.similarity !== undefined) tags.append(make("span", "cosine " + row.similarity.toFixed(3), "tag near"));
  if (row.reason) tags.append(make("span", row.reason, "tag why"));
  const score = field("score").value || (info.scores.length ? info.scores[info.scores.length - 1].name : "");
  if (score && row.scores[score] !== undefined) tags.append(make("span", score + " " + short(row.scores[score]), "tag"));
  said.append(tags);
  card.append(frame, said, more(row));
  return card;
}

function more(row) {
  const details = make("details");
  details.append(make("summary", "More"));
  const list = make("dl");
  const line = (name, value) => {
    if (value === null || value === undefined || value === "") return;
    list.append(make("dt", name), make("dd", String(value)));
  };
  line("uid", row.uid);
  line("url", row.url);
  if (row.width) line("size", row.width + " × " + row.height);
  if (row.original_width) line("original", row.original_width + " × " + row.original_height);
  for (const [name, value] of Object.entries(row.scores)) line(name, short(value));
  for (const [name, value] of Object.entries(row.labels)) line(name, value);
  line("shard", row.shard);
  line("key", row.key);
  details.append(list);
  if (info.similar && row.picture) {
    const button = make("button", "Similar pictures");
    button.type = "button";
    button.onclick = () => { near = row.uid; window.scrollTo(0, 0); load(); };
    details.append(button);
  }
  return details;
}

function short(value) {
  if (typeof value === "string") return value;
  return Number.isInteger(value) ? number(value) : Number(value).toPrecision(4);
}

function bars() {
  const score = info.scores.find((s) => s.name === field("score").value);
  field("range").hidden = !score;
  if (!score) return;
  field("min").placeholder = short(score.low);
  field("max").placeholder = short(score.high);
  const low = field("min").value === "" ? -Infinity : Number(field("min").value);
  const high = field("max").value === "" ? Infinity : Number(field("max").value);
  const most = Math.max(1, ...score.bins);
  const width = 192 / score.bins.length;
  const step = (score.high - score.low) / score.bins.length;
  field("bars").replaceChildren(...score.bins.map((count, i) => {
    const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    const height = count ? Math.max(1, (36 * count) / most) : 0;
    bar.setAttribute("x", i * width);
    bar.setAttribute("y", 36 - height);
    bar.setAttribute("width", Math.max(width - 0.6, 0.4));
    bar.setAttribute("height", height);
    const from = score.low + i * step;
    if (from + step >= low && from <= high) bar.setAttribute("class", "in");
    return bar;
  }));
}

// The question stands in the address, so that a page can be kept.
function keep() {
  const query = question();
  if (!query.page) delete query.page;
  const text = new URLSearchParams(query).toString();
  history.replaceState(null, "", text ? "/?" + text : "/");
}

function options(select, list) {
  select.replaceChildren(...list.map(([value, text]) => {
    const option = make("option", text);
    option.value = value;
    return option;
  }));
}

async function start() {
  info = await ask("/api/info", {});
  document.title = info.title + " · clipmill view";
  field("title").textContent = info.title;
  field("about").textContent = [info.kind, info.about, number(info.rows) + " pairs"].filter(Boolean).join(" · ");
  const dropped = info.rows - info.kept;
  const reasons = [["", "any"]];
  if (dropped) {
    reasons.push(["(kept)", "kept (" + number(info.kept) + ")"], ["(dropped)", "not kept (" + number(dropped) + ")"]);
    info.reasons.sort((a, b) => b.count - a.count);
    for (const r of info.reasons) reasons.push([r.reason, r.reason + " (" + number(r.count) + ")"]);
  }
  options(field("reason"), reasons);
  options(field("score"), [["", info.scores.length ? "any" : "none here"], ...info.scores.map((s) => [s.name, s.name])]);
  const given = new URLSearchParams(location.search);
  for (const id of ["q", "domain", "reason", "score", "min", "max"]) {
    if (given.has(id)) field(id).value = given.get(id);
  }
  page = Math.max(0, Number.parseInt(given.get("page") || "0", 10) || 0);
  bars();
  load();
}

let waiting = null;
function changed(event) {
  near = null;
  page = 0;
  if (event.target.id === "score") { field("min").value = ""; field("max").value = ""; }
  bars();
  clearTimeout(waiting);
  waiting = setTimeout(load, event.type === "input" ? 250 : 0);
}

field("search").addEventListener("input", changed);
field("search").addEventListener("submit", (event) => event.preventDefault());
field("search").addEventListener("reset", (event) => setTimeout(() => changed(event), 0));
field("show").addEventListener("change", (event) => document.body.classList.toggle("blurred", !event.target.checked));
field("before").addEventListener("click", () => { page -= 1; window.scrollTo(0, 0); load(); });
field("after").addEventListener("click", () => { page += 1; window.scrollTo(0, 0); load(); });
start().catch((error) => { field("count").textContent = error.message; });
