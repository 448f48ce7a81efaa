// The metrics of the Stats API as this page shows them.

import { formatCount, formatDuration, formatPercent, formatRatio } from './format';

export const HEADLINE_METRICS = ['visitors', 'visits', 'pageviews', 'views_per_visit', 'bounce_rate', 'visit_duration'] as const;

export type HeadlineMetric = (typeof HEADLINE_METRICS)[number];
export type Metric = HeadlineMetric | 'events';

/** `null` where nothing could be divided: the bounce rate of no visits. */
export type Figure = number | null;

interface Presentation {
  label: string;
  /** Tables have little room. */
  short: string;
  format: (value: Figure) => string;
  /** A sum over nothing is zero, a ratio of nothing is nothing. */
  empty: Figure;
  lowerIsBetter?: true;
  /** A share changes by percentage points: percent of a percentage mislead. */
  share?: true;
}

export const METRICS: Record<Metric, Presentation> = {
  visitors: { label: 'Visitors', short: 'Visitors', format: formatCount, empty: 0 },
  visits: { label: 'Visits', short: 'Visits', format: formatCount, empty: 0 },
  pageviews: { label: 'Pageviews', short: 'Views', format: formatCount, empty: 0 },
  events: { label: 'Events', short: 'Events', format: formatCount, empty: 0 },
  views_per_visit: { label: 'Views per visit', short: 'Views/visit', format: formatRatio, empty: null },
  bounce_rate: { label: 'Bounce rate', short: 'Bounce', format: formatPercent, empty: null, lowerIsBetter: true, share: true },
  visit_duration: { label: 'Visit duration', short: 'Duration', format: formatDuration, empty: null },
};

export function metricFromUrl(parameters: URLSearchParams): HeadlineMetric {
  const name = parameters.get('metric');
  return HEADLINE_METRICS.find((metric) => metric === name) ?? 'visitors';
}

export function metricIntoUrl(metric: HeadlineMetric, parameters: URLSearchParams): void {
  if (metric !== 'visitors') parameters.set('metric', metric);
}

/** One figure of a row of all headline metrics. A ratio over no visits is none, even where the answer says 0. */
export function headlineFigure(row: readonly Figure[] | undefined, metric: HeadlineMetric): Figure {
  const { empty } = METRICS[metric];
  const visits = row?.[HEADLINE_METRICS.indexOf('visits')] ?? 0;
  return empty === null && visits === 0 ? null : (row?.[HEADLINE_METRICS.indexOf(metric)] ?? empty);
}

/** In percent of the previous figure, a share's in percentage points; `null` if there is nothing to compare with. */
export function changeOf(metric: Metric, current: Figure, previous: Figure): number | null {
  if (current === null || previous === null) return null;
  if (METRICS[metric].share === true) return current - previous;
  return previous === 0 ? null : ((current - previous) / previous) * 100;
}
