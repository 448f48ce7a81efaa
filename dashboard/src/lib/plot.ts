// The uPlot instance behind the time chart. It is made once per colour scheme and container; new figures only replace
// its data.

import uPlot from 'uplot';
import type { Figure, HeadlineMetric } from './metrics';
import { METRICS } from './metrics';
import type { Interval } from './period';
import { incrementsOf, ticksOf } from './ticks';

export interface Plotted {
  metric: HeadlineMetric;
  interval: Interval;
  buckets: string[];
  values: Figure[];
  /** The bucket that is not over: what leads to it is dashed, what follows it is not drawn. */
  openBucket: string;
  previousValues: Figure[];
}

export interface PlotEvents {
  /** The pointer is at a bucket, `left_px` from the left edge of the container; or nowhere. */
  pointed: (index: number | null, left_px: number) => void;
  /** A stretch of buckets was drawn with the pointer. */
  selected: (from: number, to: number) => void;
}

const HEIGHT_PX = 296;
const MIN_SELECTION_PX = 12;

/** `plotted` is read whenever the chart is drawn; it must be what was last given to `setData`. */
export function createPlot(container: HTMLElement, plotted: () => Plotted, events: PlotEvents): uPlot {
  const color = (name: string) => getComputedStyle(container).getPropertyValue(name).trim();
  const axis = {
    stroke: color('--muted'),
    font: '12px system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif',
    ticks: { show: false },
  };
  const line = { stroke: color('--accent'), width: 2, points: { show: false } };
  const plot = new uPlot(
    {
      width: container.clientWidth,
      height: HEIGHT_PX,
      padding: [18, 28, 0, 6],
      legend: { show: false },
      cursor: {
        y: false,
        drag: { x: true, y: false, setScale: false },
        points: { size: 9, width: 2, fill: color('--card'), stroke: (_, series) => color(series === 1 ? '--ghost' : '--accent') },
      },
      scales: {
        x: { time: false, range: (_, min, max) => (min === max ? [min - 1, max + 1] : [min, max]) },
        y: { range: (_, __, max) => [0, max > 0 ? max * 1.08 : 1] },
      },
      axes: [
        {
          ...axis,
          grid: { show: false },
          size: 34,
          gap: 8,
          splits: (self) => ticks(self).map(({ index }) => index),
          values: (self) => ticks(self).map(({ label }) => label),
        },
        {
          ...axis,
          grid: { stroke: color('--line'), width: 1 },
          gap: 8,
          space: 48,
          size: (_, values) => 22 + 7 * Math.max(0, ...(values ?? []).map((value) => value.length)),
          incrs: () => incrementsOf(plotted().metric),
          values: (_, splits) => splits.map((value) => METRICS[plotted().metric].format(value)),
        },
      ],
      series: [
        {},
        { stroke: color('--ghost'), width: 1.5, points: { show: false } },
        { ...line, fill: color('--accent-area') },
        { ...line, dash: [5, 5] },
      ],
      hooks: {
        setCursor: [
          (self) => {
            const index = self.cursor.idx ?? null;
            events.pointed(index, index === null ? 0 : self.valToPos(index, 'x') + self.bbox.left / devicePixelRatio);
          },
        ],
        setSelect: [
          (self) => {
            const { left, width } = self.select;
            if (width < MIN_SELECTION_PX) return;
            self.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
            events.selected(Math.ceil(self.posToVal(left, 'x')), Math.floor(self.posToVal(left + width, 'x')));
          },
        ],
      },
    },
    dataOf(plotted()),
    container,
  );

  function ticks(self: uPlot) {
    const { buckets, interval } = plotted();
    return ticksOf(buckets, interval, self.bbox.width / devicePixelRatio);
  }
  return plot;
}

export function resizePlot(plot: uPlot, width_px: number): void {
  plot.setSize({ width: width_px, height: HEIGHT_PX });
}

/** Index, previous figures, figures of buckets that are over, and the dashed line to the one that is not. */
export function dataOf({ buckets, values, openBucket, previousValues }: Plotted): uPlot.AlignedData {
  const open = buckets.indexOf(openBucket);
  const over = open === -1 ? (buckets.length > 0 && (buckets[0] ?? '') > openBucket ? 0 : buckets.length) : open;
  return [
    buckets.map((_, index) => index),
    buckets.map((_, index) => previousValues[index] ?? null),
    buckets.map((_, index) => (index < over ? (values[index] ?? null) : null)),
    buckets.map((_, index) => (open !== -1 && (index === open || index === open - 1) ? (values[index] ?? null) : null)),
  ];
}
