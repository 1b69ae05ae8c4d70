// What the pages that ask the model share: loading it, asking it, showing tokens and predictions; and the panel with
// which a latent is tried out on its own page. Text that comes back is only ever put in as text.
(() => {
  "use strict";
  const key = document.querySelector("meta[name=token]")?.content ?? "";

  // An element with a class, text or children, and attributes.
  function make(tag, name = "", content = [], attributes = {}) {
    const element = document.createElement(tag);
    if (name) element.className = name;
    element.append(...(Array.isArray(content) ? content : [content]));
    for (const [attribute, value] of Object.entries(attributes)) element.setAttribute(attribute, value);
    return element;
  }

  const hidden = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb]/g;
  const hex = (character) => `⟨U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`;
  const seen = (character) => (character < " " ? String.fromCharCode(0x2400 + character.charCodeAt(0)) : hex(character));
  const LONGEST = 60;

  // Text whose control characters and marks that turn the writing can be seen.
  const plain = (text) => text.replace(hidden, seen);

  // A token as people can see it: white space at its ends and line ends visible, cut where it is very long.
  function visible(text, longest = LONGEST) {
    let cut = [...text.slice(0, 4 * longest)].slice(0, longest).join("");
    const more = cut.length < text.length;
    cut = cut.replace(/\n/g, "⏎").replace(/\r/g, "␍").replace(/\t/g, "→");
    cut = cut.replace(/^ +| +$/g, (spaces) => "·".repeat(spaces.length));
    return plain(cut) + (more ? "…" : "");
  }
  const token = (text) => make("bdi", "token", visible(text));

  function number(value, digits = 3) {
    if (value === null || value === undefined || !Number.isFinite(value)) return "–";
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size < 1e-4) return value > 0 ? "<0.0001" : ">−0.0001";
    const whole = size >= 1 ? String(Math.trunc(size)).length : 0;
    const decimals = size >= 1000 ? 0 : Math.max(0, Math.min(4, digits - whole));
    const rounded = (places) => size.toLocaleString("en", { minimumFractionDigits: places, maximumFractionDigits: places });
    const text = Number(rounded(decimals)) === 0 ? rounded(4) : rounded(decimals);
    return value > 0 ? text : `−${text}`;
  }
  function percent(share) {
    if (share === null || share === undefined) return "–";
    const points = 100 * share;
    if (points > 0 && points < 0.001) return "<0.001%";
    if (points >= 99.5 && points < 100) return points < 99.995 ? `${Number(points.toFixed(2))}%` : ">99.99%";
    return `${points >= 10 || points === 0 ? points.toFixed(0) : Number(points.toPrecision(2))}%`;
  }
  const level = (value, most) => (value && most > 0 ? Math.max(1, Math.min(20, Math.ceil((20 * Math.abs(value)) / most))) : 0);

  async function fetched(path, options) {
    let response;
    try {
      response = await fetch(path, { credentials: "same-origin", cache: "no-store", ...options });
    } catch {
      throw new Error("The server does not answer: it was stopped, perhaps. Start it again and reload this page.");
    }
    const json = (response.headers.get("content-type") ?? "").startsWith("application/json");
    if (!json && response.status === 403) throw new Error("This page is from before the server was started again: reload it.");
    if (!json) throw new Error(`The server answered with status ${response.status}: reload this page.`);
    const body = await response.json();
    if (!response.ok) throw Object.assign(new Error(body.error), { status: response.status });
    return body;
  }
  const send = (path, body) => fetched(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Sparsescope-Token": key },
    body: JSON.stringify(body),
  });
  const pause = (time) => new Promise((resolve) => { setTimeout(resolve, time); });

  // Resolves when the model is loaded, asking for that where nobody did; `show` is told of every state on the way.
  async function ready(show = () => {}) {
    let status = await fetched("/api/status");
    if (status.state === "resting" || status.state === "failed") status = await send("/api/load", {});
    for (show(status); status.state === "loading"; show(status)) {
      await pause(250);
      status = await fetched("/api/status");
    }
    if (status.state === "failed") throw new Error(`The model could not be loaded: ${status.reason}`);
    return status;
  }

  // Load what is missing, then ask.
  async function post(path, body, show) {
    await ready(show);
    return send(path, body);
  }

  // What the loading looks like: words and a bar in a place of their own, which is always there.
  function loading(place) {
    const words = place.querySelector("[role=status]");
    const bar = place.querySelector("progress");
    const say = (text, share = null, bad = false) => {
      words.textContent = text;
      bar.value = share ?? 0;
      place.classList.toggle("running", share !== null);
      place.classList.toggle("bad", bad);
    };
    const expected = ({ expected: time }) => (time ? `about ${Math.max(1, Math.round(time))} s` : "from seconds to a minute, by its size");
    const show = (status) => {
      if (status.state === "loading") {
        const share = status.expected ? Math.min(0.97, status.seconds / status.expected) : 0.5;
        say(`Loading the model, which takes ${expected(status)} and happens once: ${status.seconds.toFixed(0)} s so far.`, share);
      } else if (status.state === "ready") say(`The model is loaded (that took ${status.seconds.toFixed(1)} s).`);
      else if (status.state === "failed") say(`The model could not be loaded: ${status.reason}`, null, true);
      else say(`The model is not loaded yet. That takes ${expected(status)}, once, and begins when it is needed.`);
    };
    fetched("/api/status").then(show, (error) => say(error.message, null, true));
    return { show, say, fail: (error) => say(error.message, null, true) };
  }

  // One list of predictions: token, bar (full at 100%, so that bars of all lists can be compared), probability.
  function predictions(title, rows, pick, other) {
    const list = make("ol", "predictions");
    for (const row of rows) {
      const value = pick(row);
      const bar = make("i");
      bar.style.width = `${100 * value}%`;
      const past = other === null ? null : other(row);
      const moved = past === null ? "" : value > past * 1.05 ? "▲" : value < past / 1.05 ? "▼" : "";
      const words = moved ? `${moved} from ${percent(past)}` : "";
      list.append(make("li", "", [token(row.text), make("span", "bar", [bar]), make("span", "value", [percent(value)]),
        make("span", "moved", moved, { title: words, "aria-label": words })]));
    }
    return make("div", "", [make("h3", "", title), list]);
  }

  // What is expected after a token, before and after a change: two lists, the divergence, and what really comes.
  function comparison(place, told, changed) {
    const before = predictions("As it is", told.before, (row) => row.before, null);
    const after = changed
      ? predictions("Changed", told.after, (row) => row.after, (row) => row.before)
      : make("div", "", [make("h3", "", "Changed"), make("p", "waiting", "Change a latent to see what becomes of these.")]);
    const facts = make("p", "facts-line");
    if (changed) facts.append("KL(as it is ‖ changed) ", make("b", "", number(told.kl)), " nats. ");
    if (told.actual) {
      facts.append("What comes: ", token(told.actual.text), ` ${percent(told.actual.before)}`);
      if (changed) facts.append(` → ${percent(told.actual.after)}`);
    } else facts.append("Nothing follows: the text ends here.");
    place.replaceChildren(make("div", "two", [before, after]), facts);
  }

  // Buttons for the tokens of a text; `act` gets the number of the one that is pressed. Arrows go from one to the next.
  function tokens(place, pieces, act) {
    const buttons = pieces.map((piece, at) => {
      const button = make("button", "live-token", make("bdi", "", visible(piece) || "∅"), { type: "button" });
      button.dataset.about = piece ? "" : "a part of the character that ends in a later token";
      button.title = button.dataset.about;
      button.addEventListener("click", () => act(at));
      button.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!step || !buttons[at + step]) return;
        event.preventDefault();
        buttons[at + step].focus();
        act(at + step);
      });
      return button;
    });
    place.replaceChildren(...buttons);
    return buttons;
  }

  // Scroll a strip of tokens, and nothing else, so that one of them can be seen.
  function reveal(place, button) {
    const [outer, inner] = [place.getBoundingClientRect(), button.getBoundingClientRect()];
    if (inner.top < outer.top || inner.bottom > outer.bottom) place.scrollTop += inner.top - outer.top - outer.height / 3;
  }

  // How much the predictions after each token changed: a line below the token.
  function underline(buttons, divergences) {
    const most = Math.max(0, ...divergences);
    buttons.forEach((button, at) => {
      const share = most > 0 ? divergences[at] / most : 0;
      button.style.setProperty("--moved", share > 0 ? `${1 + 4 * share}px` : "0px");
      button.title = [button.dataset.about, share > 0 ? `KL of the next token ${number(divergences[at])} nats` : ""].filter(Boolean).join("; ");
    });
  }

  window.sparsescopeLive = { make, plain, visible, token, number, percent, level, ready, post, loading, comparison, tokens, reveal, underline };
})();
