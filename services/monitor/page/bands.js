// Statistics over repetitions of a run: a mean line with its confidence band. Pure functions of lists of numbers.

/** The 97.5 % quantile of Student's t for 1 to 30 degrees of freedom; beyond that, of the normal distribution. */
const T = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
  2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042];

/** The mean of `values` and the half width of its 95 % interval, t · s/√n; null for fewer than two. */
export function interval(values) {
  const n = values.length;
  const mean = values.reduce((sum, value) => sum + value, 0) / n;
  if (n < 2) return { mean, half: null };
  const variance = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (n - 1);
  return { mean, half: (T[n - 2] ?? 1.96) * Math.sqrt(variance / n) };
}

/** The value of [x, y] points at `x`, on a straight line between neighbours; null outside of them. */
export function valueAt(points, x) {
  if (!points.length || x < points[0][0] || x > points.at(-1)[0]) return null;
  let low = 0, high = points.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (points[middle][0] <= x) low = middle;
    else high = middle;
  }
  const [[x1, y1], [x2, y2]] = [points[low], points[high]];
  return x2 === x1 ? y2 : y1 + ((y2 - y1) * (x - x1)) / (x2 - x1);
}

/** Of several runs' [x, y] points: `points` of their mean, and `band` [x, low, high] where at least two of them are. */
export function meanLine(runs) {
  const places = [...new Set(runs.flatMap((points) => points.map(([x]) => x)))].sort((a, b) => a - b);
  const points = [], band = [];
  for (const x of places) {
    const { mean, half } = interval(runs.map((one) => valueAt(one, x)).filter((value) => value !== null));
    points.push([x, mean, x]);
    if (half !== null) band.push([x, mean - half, mean + half]);
  }
  return { points, band };
}
