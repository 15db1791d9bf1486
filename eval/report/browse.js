// Rows a few at a time, filtered by selects and a search; an address ends on a row's key. Every text is shown as a text.
const element = (tag, className, text) => {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};

// name: of the section (`names`) and of its parts (`name-list`); values: what each select filters by; key and texts: of a
// row, for addresses and for the search; drawn: the row as an element.
const browse = ({ name, values, key, texts, drawn }) => {
  const PAGE = 20;
  const part = (what) => document.getElementById(`${name}-${what}`);
  const rows = JSON.parse(document.getElementById("rows").textContent);
  const selects = Array.from(document.getElementById(`${name}s`).querySelectorAll("select"));
  const [list, search] = [part("list"), part("search")];
  let first = 0;

  const matching = () => {
    const words = search.value.trim().toLowerCase();
    return rows.filter(
      (row) =>
        selects.every((select) => !select.value || values[select.dataset.of](row) === select.value) &&
        (!words || texts(row).some((text) => (text || "").toLowerCase().includes(words))),
    );
  };

  const show = (from) => {
    const chosen = matching();
    first = Math.max(0, Math.min(from, Math.floor(Math.max(0, chosen.length - 1) / PAGE) * PAGE));
    list.replaceChildren(...chosen.slice(first, first + PAGE).map(drawn));
    const last = Math.min(first + PAGE, chosen.length);
    part("tally").textContent = chosen.length ? `${first + 1} to ${last} of ${chosen.length}` : "none";
    part("back").disabled = first === 0;
    part("on").disabled = last >= chosen.length;
  };

  const go = () => {
    const wanted = decodeURIComponent(location.hash.slice(1));
    const place = rows.findIndex((row) => key(row) === wanted);
    if (place < 0) return;
    selects.forEach((select) => { select.value = ""; });
    search.value = "";
    show(Math.floor(place / PAGE) * PAGE);
    list.children[place - first].scrollIntoView();
    list.children[place - first].classList.add("wanted");
  };

  for (const select of selects) {
    const found = [...new Set(rows.map(values[select.dataset.of]))];
    found.sort((a, b) => a.localeCompare(b, undefined, { numeric: true }));
    for (const value of found) select.append(new Option(value, value));
    select.hidden = found.length < 2;
    select.addEventListener("change", () => show(0));
  }
  search.addEventListener("input", () => show(0));
  part("back").addEventListener("click", () => show(first - PAGE));
  part("on").addEventListener("click", () => show(first + PAGE));
  addEventListener("hashchange", go);
  show(0);
  go();
};
