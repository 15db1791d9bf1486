// Dark or light: as chosen before, else as the system has it.

function systemTheme() {
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
}

function toggleTheme() {
  const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  setTheme(theme);
  try {
    localStorage.setItem("dodona-theme", theme);
  } catch {
    // a page from disk may have no storage; the theme then lasts as long as the page
  }
}

function storedTheme() {
  try {
    const theme = localStorage.getItem("dodona-theme");
    return theme === "dark" || theme === "light" ? theme : null;
  } catch {
    return null;
  }
}

