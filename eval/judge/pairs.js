// The pairs: filtered by what their selects say, a few at a time, every text as a text. An address ends on judge and id.
(() => {
  const rows = JSON.parse(document.getElementById("rows").textContent);
  const root = document.getElementById("pairs");
  const list = document.getElementById("pair-list");
  const tally = document.getElementById("pair-tally");
  const search = document.getElementById("pair-search");
  const selects = Array.from(root.querySelectorAll("select"));
  const PAGE = 20;
  const SAYS = { a: "A", b: "B", tie: "tie" };
  let first = 0;

  const element = (tag, className, text) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const values = {
    judge: (row) => row.judge,
    winner: (row) => (row.winner === null ? "error" : row.winner === "tie" ? "tie" : `${SAYS[row.winner]} won`),
    orders: (row) => (row.consistent === null ? "an order has no verdict" : row.consistent ? "the orders agree" : "the orders disagree"),
    human: (row) => (row.human === null ? "no person's verdict" : row.human === row.winner ? "a person says the same" : "a person says something else"),
    length: (row) => {
      if (row.a === null || row.b === null) return "an answer is missing";
      const [a, b] = [Array.from(row.a).length, Array.from(row.b).length];
      return a > b ? "A is longer" : a < b ? "B is longer" : "equally long";
    },
  };
  const key = (row) => `${row.judge}/${row.id}`;
  for (const select of selects) {
    const found = [...new Set(rows.map(values[select.dataset.of]))];
    found.sort((a, b) => a.localeCompare(b, undefined, { numeric: true }));
    for (const value of found) select.append(new Option(value, value));
    select.hidden = found.length < 2;
    select.addEventListener("change", () => show(0));
  }

  const matching = () => {
    const words = search.value.trim().toLowerCase();
    return rows.filter(
      (row) =>
        selects.every((select) => !select.value || values[select.dataset.of](row) === select.value) &&
        (!words || [row.id, row.question, row.context, row.reference, row.a, row.b].some((text) => (text || "").toLowerCase().includes(words))),
    );
  };

  const side = (name, text, won) => {
    const box = element("div", won ? "side won" : "side");
    box.append(element("h4", "", won ? `${name} (won)` : name), element("div", text === null ? "text soft" : "text", text === null ? "(none)" : text));
    return box;
  };
  const drawn = (row) => {
    const box = element("article", `pair ${row.winner || "error"}`);
    const head = element("div", "head");
    const link = element("a", "", row.id);
    link.href = `#${encodeURIComponent(key(row))}`;
    head.append(element("strong", "", row.said), link, element("span", "soft", row.judge));
    box.append(head);
    if (row.context !== null) box.append(element("p", "text soft", row.context));
    box.append(element("p", "text question", row.question === null ? "(no question)" : row.question));
    if (row.reference !== null) box.append(element("p", "text", `True answer: ${row.reference}`));
    const sides = element("div", "sides");
    sides.append(side("A", row.a, row.winner === "a"), side("B", row.b, row.winner === "b"));
    box.append(sides);
    row.wrote.forEach((text, order) => {
      if (!text) return;
      const details = element("details");
      details.append(element("summary", "", `What the judge wrote with ${"AB"[order]} first`), element("div", "text", text));
      box.append(details);
    });
    return box;
  };

  const show = (from) => {
    const chosen = matching();
    first = Math.max(0, Math.min(from, Math.floor(Math.max(0, chosen.length - 1) / PAGE) * PAGE));
    list.replaceChildren(...chosen.slice(first, first + PAGE).map(drawn));
    const last = Math.min(first + PAGE, chosen.length);
    tally.textContent = chosen.length ? `${first + 1} to ${last} of ${chosen.length}` : "none";
    document.getElementById("pair-back").disabled = first === 0;
    document.getElementById("pair-on").disabled = last >= chosen.length;
  };

  const go = () => {
    const wanted = decodeURIComponent(location.hash.slice(1));
    const place = rows.findIndex((row) => key(row) === wanted);
    if (place < 0) return;
    selects.forEach((select) => { select.value = ""; });
    search.value = "";
    show(Math.floor(place / PAGE) * PAGE);
    list.children[place - first].scrollIntoView();
  };

  search.addEventListener("input", () => show(0));
  document.getElementById("pair-back").addEventListener("click", () => show(first - PAGE));
  document.getElementById("pair-on").addEventListener("click", () => show(first + PAGE));
  addEventListener("hashchange", go);
  show(0);
  go();
})();
