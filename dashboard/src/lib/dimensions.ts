// The dimensions a report is broken down by, and how their values read.

import type { QueryFilter } from './filters';
import { countryName } from './format';
import type { Metric } from './metrics';

/** Dimensions of a visit: any of them can also filter. The URL and the Stats API (`visit:source`) share the names. */
export const VISIT_DIMENSIONS = [
  'source',
  'referrer',
  'utm_source',
  'utm_medium',
  'utm_campaign',
  'utm_content',
  'utm_term',
  'entry_page',
  'exit_page',
  'country',
  'browser',
  'os',
  'device',
] as const;

export type VisitDimension = (typeof VISIT_DIMENSIONS)[number];
export type Dimension = `visit:${VisitDimension}` | 'event:page' | 'event:name';

/** One list of rows. */
export interface Listing {
  dimension: Dimension;
  label: string;
  /** What one row is, as the head of its column. */
  row: string;
  /** The first orders the rows and gives the bars their length. */
  metrics: [Metric, ...Metric[]];
  /** Rows without a value are left out: a visit without a campaign is no campaign. */
  named?: true;
  /** Always asked with, besides the filters that were chosen. */
  filter?: QueryFilter;
  /** What to say when there is nothing. */
  empty: string;
}

/** A tab shows one of its listings; most have only one. */
export interface Tab {
  label: string;
  listings: [Listing, ...Listing[]];
}

export interface Panel {
  title: string;
  tabs: [Tab, ...Tab[]];
}

const campaign = (name: Extract<VisitDimension, `utm_${string}`>, label: string): Listing => ({
  dimension: `visit:${name}`,
  label,
  row: label,
  metrics: ['visitors', 'bounce_rate'],
  named: true,
  empty: 'No visit came with a tagged link.',
});

const alone = (listing: Listing): Tab => ({ label: listing.label, listings: [listing] });

export const PANELS: { pages: Panel; sources: Panel; countries: Panel; devices: Panel; events: Panel } = {
  pages: {
    title: 'Pages',
    tabs: [
      alone({ dimension: 'event:page', label: 'Top pages', row: 'Page', metrics: ['visitors', 'pageviews'], empty: 'No page was viewed.' }),
      alone({ dimension: 'visit:entry_page', label: 'Entry pages', row: 'Entry page', metrics: ['visits', 'bounce_rate'], named: true, empty: 'No visit began on a page.' }),
      alone({ dimension: 'visit:exit_page', label: 'Exit pages', row: 'Exit page', metrics: ['visits'], named: true, empty: 'No visit ended on a page.' }),
    ],
  },
  sources: {
    title: 'Sources',
    tabs: [
      alone({ dimension: 'visit:source', label: 'Sources', row: 'Source', metrics: ['visitors', 'bounce_rate'], empty: 'No visits.' }),
      alone({ dimension: 'visit:referrer', label: 'Referrers', row: 'Referrer', metrics: ['visitors', 'bounce_rate'], named: true, empty: 'No visit followed a link.' }),
      {
        label: 'Campaigns',
        listings: [
          campaign('utm_campaign', 'Campaign'),
          campaign('utm_source', 'UTM source'),
          campaign('utm_medium', 'UTM medium'),
          campaign('utm_content', 'UTM content'),
          campaign('utm_term', 'UTM term'),
        ],
      },
    ],
  },
  countries: {
    title: 'Countries',
    tabs: [alone({ dimension: 'visit:country', label: 'Countries', row: 'Country', metrics: ['visitors'], empty: 'No visits.' })],
  },
  devices: {
    title: 'Devices',
    tabs: [
      alone({ dimension: 'visit:browser', label: 'Browsers', row: 'Browser', metrics: ['visitors'], empty: 'No visits.' }),
      alone({ dimension: 'visit:os', label: 'OS', row: 'Operating system', metrics: ['visitors'], empty: 'No visits.' }),
      alone({ dimension: 'visit:device', label: 'Devices', row: 'Device', metrics: ['visitors'], empty: 'No visits.' }),
    ],
  },
  events: {
    title: 'Events',
    tabs: [
      alone({
        dimension: 'event:name',
        label: 'Events',
        row: 'Event',
        metrics: ['visitors', 'events'],
        // By its name a pageview is an event like any other.
        filter: ['is_not', 'event:name', ['pageview']],
        empty: "No custom events. Send one with tideline('Signup').",
      }),
    ],
  },
};

const FILTER_LABELS: Record<VisitDimension, string> = {
  source: 'Source',
  referrer: 'Referrer',
  utm_source: 'UTM source',
  utm_medium: 'UTM medium',
  utm_campaign: 'Campaign',
  utm_content: 'UTM content',
  utm_term: 'UTM term',
  entry_page: 'Entry page',
  exit_page: 'Exit page',
  country: 'Country',
  browser: 'Browser',
  os: 'OS',
  device: 'Device',
};

export function filterLabel(dimension: VisitDimension): string {
  return FILTER_LABELS[dimension];
}

/** The visit dimension that clicking a row filters by; pages viewed and events belong to no single visit. */
export function filterDimension(dimension: Dimension): VisitDimension | null {
  return VISIT_DIMENSIONS.find((name) => dimension === `visit:${name}`) ?? null;
}

/** A value as it reads: a country by its name, nothing by what nothing means there. */
export function displayValue(dimension: Dimension, value: string): string {
  if (isUnnamed(value)) return dimension === 'visit:source' ? 'Direct' : dimension.startsWith('visit:utm_') ? '(none)' : 'Unknown';
  if (dimension === 'visit:country') return countryName(value);
  return value === '(other)' ? 'Everything else' : value;
}

/** Whether a value says that there was none. Plausible's own words for it are understood too. */
export function isUnnamed(value: string): boolean {
  return value === '' || value === '(none)' || value === '(not set)' || value === 'Direct / None';
}
