// The examples, with filters. An address ends on a row id.
{
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
  const key = (row) => row.id;
  const texts = (row) => [row.id, row.question, row.prefix, row.completion];

  const drawn = (row) => {
    const box = element("article", `example ${row.correct ? "recovered" : "lost"}`);
    const head = element("div", "row-head");
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

  browse({ name: "example", values, key, texts, drawn });
}
