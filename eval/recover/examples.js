// The examples: filtered by what their selects say, a few at a time, every text as a text. An address ends on a row id.
(() => {
  const rows = JSON.parse(document.getElementById("rows").textContent);
  const root = document.getElementById("examples");
  const list = document.getElementById("example-list");
  const tally = document.getElementById("example-tally");
  const search = document.getElementById("example-search");
  const selects = Array.from(root.querySelectorAll("select"));
  const PAGE = 20;
  let first = 0;

  const element = (tag, className, text) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const verdict = (row) => {
    if (row.kind === "right") return row.correct ? "stayed right" : "went wrong";
    return row.correct ? "recovered" : "lost";
  };
  const values = {
    verdict,
    kind: (row) => row.kind,
    fraction: (row) => `${+(100 * row.fraction).toPrecision(6)} %`,
    writer: (row) => row.writer,
    level: (row) => (row.level === null ? "(none)" : String(row.level)),
    outcome: (row) => (row.repeats ? "same wrong answer" : row.outcome),
    error: (row) => (row.kind === "right" ? "right prefix" : row.harmless ? "no error yet" : "no right solution begins so"),
    answered: (row) => (row.answered ? "answer in the prefix" : "no answer in the prefix"),
  };
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
        (!words || [row.id, row.question, row.prefix, row.completion].some((text) => text.toLowerCase().includes(words))),
    );
  };

  const drawn = (row) => {
    const box = element("article", `example ${row.correct ? "recovered" : "lost"}`);
    const head = element("div", "example-head");
    head.append(element("strong", "", row.correct ? verdict(row) : `${verdict(row)}: ${row.repeats ? "the same wrong answer" : row.outcome}`));
    const link = element("a", "", row.id);
    link.href = `#${encodeURIComponent(row.id)}`;
    head.append(link);
    const facts = [`${row.kind} prefix of ${row.tokens} tokens by the ${row.author} model`, `completed by the ${row.writer} model`];
    if (row.level !== null) facts.push(`level ${row.level}`);
    facts.push(`strong straight shot ${+(100 * row.rate).toPrecision(4)} %`);
    if (row.harmless) facts.push("no error yet");
    if (row.answered) facts.push("an answer in the prefix");
    if (row.edit) facts.push(`${JSON.stringify(row.edit.from)} changed to ${JSON.stringify(row.edit.to)}`);
    head.append(element("span", "soft", facts.join(" · ")));
    box.append(head, element("p", "question", row.question));
    const text = element("pre");
    text.append(element("span", "given", row.prefix), element("span", "cut", "⟦cut⟧"), element("span", "written", row.completion));
    const answers = [`answer ${row.answer === null ? "not found" : row.answer}`, `right ${row.gold}`];
    if (row.wrong !== null) answers.push(`the wrong solution's ${row.wrong}`);
    box.append(text, element("p", "soft", answers.join(" · ")));
    return box;
  };

  const show = (from) => {
    const chosen = matching();
    first = Math.max(0, Math.min(from, Math.floor(Math.max(0, chosen.length - 1) / PAGE) * PAGE));
    list.replaceChildren(...chosen.slice(first, first + PAGE).map(drawn));
    const last = Math.min(first + PAGE, chosen.length);
    tally.textContent = chosen.length ? `${first + 1} to ${last} of ${chosen.length}` : "none";
    document.getElementById("example-back").disabled = first === 0;
    document.getElementById("example-on").disabled = last >= chosen.length;
  };

  const go = () => {
    const wanted = decodeURIComponent(location.hash.slice(1));
    const place = rows.findIndex((row) => row.id === wanted);
    if (place < 0) return;
    selects.forEach((select) => { select.value = ""; });
    search.value = "";
    show(Math.floor(place / PAGE) * PAGE);
    list.children[place - first].scrollIntoView();
    list.children[place - first].classList.add("wanted");
  };

  search.addEventListener("input", () => show(0));
  document.getElementById("example-back").addEventListener("click", () => show(first - PAGE));
  document.getElementById("example-on").addEventListener("click", () => show(first + PAGE));
  addEventListener("hashchange", go);
  show(0);
  go();
})();
