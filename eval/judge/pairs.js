// The pairs, with filters. An address ends on judge and id.
{
  const SAYS = { a: "A", b: "B", tie: "tie" };
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
  const texts = (row) => [row.id, row.question, row.context, row.reference, row.a, row.b];

  const side = (name, text, won) => {
    const box = element("div", won ? "side won" : "side");
    box.append(element("h4", "", won ? `${name} (won)` : name), element("div", text === null ? "text soft" : "text", text === null ? "(none)" : text));
    return box;
  };
  const drawn = (row) => {
    const box = element("article", `pair ${row.winner || "error"}`);
    const head = element("div", "row-head");
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

  browse({ name: "pair", values, key, texts, drawn });
}
