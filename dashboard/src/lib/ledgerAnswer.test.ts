import { beforeEach, describe, expect, it, vi } from 'vitest';
import { fetchLedger } from './api';
import type { Ledger } from './ledger';
import { LedgerAnswer } from './ledgerAnswer.svelte';

vi.mock('./api', () => ({ fetchLedger: vi.fn(), SignedOutError: class extends Error {} }));
vi.mock('./session.svelte', () => ({ session: { end: vi.fn() } }));

const asked = vi.mocked(fetchLedger);
const ledger = { sent: 5 } as Ledger;

describe('the ledger of a range', () => {
  beforeEach(() => void asked.mockReset());

  it('stays when a refresh fails', async () => {
    const answer = new LedgerAnswer();
    asked.mockResolvedValueOnce(ledger);
    await answer.ask('shop', '2026-11-01', '2026-11-02');
    asked.mockRejectedValueOnce(new Error('away'));
    await answer.ask('shop', '2026-11-01', '2026-11-02');
    expect([answer.ledger, answer.message]).toEqual([ledger, undefined]);
  });

  it('goes when another range is asked for, and does not come back when that fails', async () => {
    const answer = new LedgerAnswer();
    asked.mockResolvedValueOnce(ledger);
    await answer.ask('shop', '2026-11-01', '2026-11-02');
    asked.mockRejectedValueOnce(new Error('away'));
    const asking = answer.ask('shop', '2026-11-03', '2026-11-04');
    expect(answer.ledger).toBeUndefined();
    await asking;
    expect([answer.ledger, answer.message]).toEqual([undefined, 'away']);
  });

  it('of the newest question is shown, whichever answer comes first', async () => {
    const answer = new LedgerAnswer();
    let late: (ledger: Ledger) => void = () => {};
    asked.mockReturnValueOnce(new Promise((resolve) => (late = resolve)));
    const first = answer.ask('shop', '2026-11-01', '2026-11-02');
    asked.mockResolvedValueOnce(ledger);
    await answer.ask('shop', '2026-11-03', '2026-11-04');
    late({ ...ledger, sent: 6 });
    await first;
    expect(answer.ledger).toEqual(ledger);
  });
});
