// Search by example: the model reads a text; the latents that are most active on it, relative to their largest
// activation anywhere, come first. live.js has what this needs to ask, and to show texts as nothing but text.
(() => {
  "use strict";
  const form = document.getElementById("asking");
  const list = document.getElementById("example-found");
  const place = document.getElementById("loading");
  if (!form || !list || !place) return;
  const { make, visible, token, number, percent, post, loading } = window.sparsescopeLive;
  const state = loading(place);

  function card(found) {
    const address = list.dataset.latent.replace("SLUG", encodeURIComponent(found.dictionary)).replace("NUMBER", found.latent);
    const share = make("span", "found", percent(found.share), { title: "activation here, as a share of its largest" });
    const head = make("h3", "", [make("a", "", `Latent ${found.latent}`, { href: address }), make("small", "", ["of ", make("bdi", "", found.dictionary)]), share]);
    const story = make("p", "story", ["Strongest here on ", token(found.token), make("small", "", ` ${number(found.code)}`)]);
    if (found.words.length) story.append("; fires mostly on ", ...found.words.slice(0, 4).flatMap((text, at) => (at ? [", ", token(text)] : [token(text)])));
    const said = found.explanation === null ? make("span", "quiet", "not explained") : make("q", "", visible(found.explanation, 500));
    const facts = [["active on", percent(found.density)], ["score", number(found.score, 2)]];
    if (found.label !== null) facts.push(["label", visible(found.label, 120)]);
    const numbers = facts.map(([name, value]) => make("div", "", [make("dt", "", name), make("dd", "", value)]));
    return make("article", "card brief", [head, story, make("p", "explained", make("bdi", "", said)), make("dl", "numbers", numbers)], { "data-item": "" });
  }

  async function read() {
    const text = form.elements.q.value;
    const dictionary = form.elements.dictionary.value;
    if (!text.trim()) return state.say("Write or paste a text first.");
    const address = new URL(location.href);
    address.searchParams.set("q", text);
    address.searchParams.set("dictionary", dictionary);
    history.replaceState(null, "", address);
    list.setAttribute("aria-busy", "true");
    try {
      const found = await post("/api/example", dictionary ? { text, dictionary } : { text }, state.show);
      // Autoencoders before baselines, as in every search; sorting keeps the order of equals.
      const ranks = new Map([...form.elements.dictionary.options].map((option) => [option.value, Number(option.dataset.rank)]));
      found.latents.sort((a, b) => ranks.get(a.dictionary) - ranks.get(b.dictionary));
      list.replaceChildren(...found.latents.map(card));
      state.say(found.latents.length
        ? `${found.latents.length} latents, by their activation here as a share of their largest anywhere.`
        : "No latent is active on this text.");
    } catch (error) {
      state.fail(error);
    }
    return list.removeAttribute("aria-busy");
  }

  form.addEventListener("submit", (event) => { event.preventDefault(); read(); });
})();
