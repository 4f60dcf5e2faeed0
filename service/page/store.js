// The browser's stores. Where it denies them (its settings, an embedding page) nothing is kept and nothing breaks.

// `area` is "localStorage" or "sessionStorage"; null where nothing is kept under that name.
export function read(area, name) {
  try {
    return window[area].getItem(name);
  } catch {
    return null;
  }
}

// Keep `value`, or with null forget it. False where the browser denies it or its room is full.
export function write(area, name, value) {
  try {
    if (value === null) window[area].removeItem(name);
    else window[area].setItem(name, value);
    return true;
  } catch {
    return false;
  }
}
