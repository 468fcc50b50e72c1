// Functions that format numbers and times.

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });

// scaled formats a number with about three significant digits.
function scaled(n) {
  if (n === 0) return '0';
  if (n < 10) return n.toFixed(n < 0.1 ? 2 : 1).replace(/\.0+$/, '');
  return whole.format(n);
}

// count formats a count.
export function count(n) {
  return whole.format(n);
}

// plural formats a count with its noun.
export function plural(n, one, many = one + 's') {
  return `${count(n)} ${n === 1 ? one : many}`;
}

// bytes formats a number of bytes in powers of 1000.
export function bytes(n) {
  const units = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'];
  let i = 0;
  for (; n >= 999.5 && i < units.length - 1; i++) n /= 1000;
  return `${i === 0 ? whole.format(n) : scaled(n)} ${units[i]}`;
}

// bytesPerSecond formats a data rate.
export function bytesPerSecond(n) {
  return `${bytes(n)}/s`;
}

// perSecond formats a rate of events.
export function perSecond(n) {
  return `${scaled(n)}/s`;
}

// latency formats a short time in seconds; null means that there was none.
export function latency(seconds) {
  if (seconds === null) return 'none';
  if (seconds < 0.001) return `${scaled(seconds * 1e6)} µs`;
  if (seconds < 1) return `${scaled(seconds * 1000)} ms`;
  return `${scaled(seconds)} s`;
}

// duration formats a time in seconds in its two largest units.
export function duration(seconds) {
  const s = Math.floor(seconds);
  if (s < 60) return `${Math.max(0, s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

// ago formats the time from then to now.
export function ago(then, now) {
  return `${duration((new Date(now) - new Date(then)) / 1000)} ago`;
}

// clock formats the time of day of a Date.
export function clock(date) {
  return date.toLocaleTimeString('en-GB');
}
