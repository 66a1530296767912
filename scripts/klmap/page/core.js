// What the page carries, and the few helpers that all other files use.
//
// Everything that comes from models is data. It reaches the document through `textContent` and
// attributes set one by one, never as HTML.

const payload = JSON.parse(document.getElementById("data").textContent);
const look = JSON.parse(document.getElementById("look").textContent);

const find = (selector) => document.querySelector(selector);

/** An element with attributes, listeners (`onclick`: a function) and children. */
function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") made.addEventListener(name.slice(2), value);
    else if (name === "text") made.textContent = value;
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function drawing(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  made.append(...children);
  return made;
}

/** A word with an explanation that shows on hover, focus and touch. */
function term(word, help, kind = "term") {
  return make("span", { class: kind, tabindex: "0", "data-help": help, text: word });
}

/** The value of a function, computed when it is first asked for. */
function lazy(compute) {
  let value;
  let known = false;
  return () => {
    if (!known) {
      value = compute();
      known = true;
    }
    return value;
  };
}

/** Calls at most once per frame. */
function everyFrame(call) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      call();
    });
  };
}

/** Calls when nothing has asked for it for a while. */
function afterwards(call, milliseconds) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(call, milliseconds);
  };
}

const listeners = new Map();

/** Tell all who listen that something has changed: select, hits, color, show, ways, view, theme. */
function tell(what) {
  for (const call of listeners.get(what) ?? []) call();
}

function listen(names, call) {
  for (const name of names.split(" ")) listeners.set(name, [...(listeners.get(name) ?? []), call]);
}

function announce(message) {
  find("#live").textContent = message;
}

let noticeTimer = 0;

/** A message that stays for some seconds, and is read aloud. */
function notice(message, ...more) {
  const box = find("#notice");
  box.replaceChildren(make("span", { text: message }), ...more);
  box.hidden = false;
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => {
    box.hidden = true;
  }, more.length ? 15000 : 6000);
}

const count = (number) => number.toLocaleString("en");
const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;

/** A number as people say it: 0.05, 14M, 6.9B. */
function short(value) {
  for (const [unit, name] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]]) {
    if (Math.abs(value) >= unit) return `${Number((value / unit).toPrecision(3))}${name}`;
  }
  return String(Number(value.toPrecision(4)));
}

function day(days) {
  return new Date(days * 86400000).toISOString().slice(0, 10);
}

/** How many decimals a number needs so that its error shows two digits. */
function decimals(value, error) {
  const least = error > 0 ? error * 10 : Math.abs(value);
  const digits = error > 0 ? 2 : 2 - Math.floor(Math.log10(least || 1));
  const wanted = error > 0 ? 1 - Math.floor(Math.log10(error)) : digits;
  return Math.max(0, Math.min(7, wanted));
}

/** A KL and its standard error, both to the digits that the error allows. */
function withError(kl, se) {
  const known = Number.isFinite(se);
  const places = decimals(kl, known ? se : 0);
  return known ? `${kl.toFixed(places)} ± ${se.toFixed(places)}` : kl.toFixed(places);
}

const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;

function dark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}
