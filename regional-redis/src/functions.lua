#!lua name=tideline
-- What a region's Redis does in one step: the state machine behind the gateways' logs. One shard a call, every key in the
-- slot {shard}. docs/decisions/delivery.md says why each rule is there.
--
--   e  epoch:run id, approved by the leader     t  term of the leader            n  number of the open flush
--   i  gateway -> incarnation                   a  gateway -> applied LSN        k  gateway -> durable LSN
--   b  gateway -> watermark:LSN                 x:<gateway>  last LSN of a call -> its outcomes
--   d:<class>:<hour>  sid -> bits of its seqs   dh  which of these there are     h  deletion horizon, ms
--   v:<site>:<visitor>  the running visit       ver  version of the newest visit state
--   the bucket of flush n: w:<n> counters, wt:<n> those of kind total, wu:<n> uniques, wv:<n> newest states of visits
--   c  cut flush -> its vector, watermark and time
--   l:<site>  visitors by arrival, for the live figure     ls  sites by their last arrival
--
-- Redis does not roll a function back: every key is read and every argument checked before the first write.
local VISIT_GAP_MS, VISIT_KEPT_MS, SEQ_MAX, BATCHES_MAX = 30 * 60 * 1000, 60 * 60 * 1000, 4096, 1000
local ACCEPT_MS = {['0'] = 2 * 3600 * 1000, ['1'] = 26 * 3600 * 1000}         -- by class
local HOUR_MS, PRESENT_MS, KIND_TOTAL = 3600 * 1000, 5 * 60 * 1000, 0
local CHUNK, WHOLE_MAX, STRING_MAX = 4000, 2 ^ 52, 65535  -- unpack takes some 8,000 values; a length has two bytes

local function in_chunks(command, key, values)
  for from = 1, #values, CHUNK do redis.call(command, key, unpack(values, from, math.min(from + CHUNK - 1, #values))) end
end

local function bit_is_set(bits, seq)
  local byte = string.byte(bits, math.floor(seq / 8) + 1) or 0
  return math.floor(byte / 2 ^ (seq % 8)) % 2 == 1
end

local function with_bits(bits, seqs)
  for seq in pairs(seqs) do
    local at = math.floor(seq / 8) + 1
    if at > #bits then bits = bits .. string.rep('\0', at - #bits) end
    bits = string.sub(bits, 1, at - 1) .. string.char(string.byte(bits, at) + 2 ^ (seq % 8)) .. string.sub(bits, at + 1)
  end
  return bits
end

-- A visit: numbers, then lengths, then the strings: id, key ("<site>:<visitor>"), entry page, exit page, dimensions.
local VISIT = '<i8i8I4I4I8I8i8i8I2I2I2I2'
local function pack_visit(v)
  return struct.pack(VISIT, v.start, v.last, v.pages, v.events, v.engaged, v.version, v.entry_at, v.exit_at,
                     #v.id, #v.key, #v.entry, #v.exit) .. v.id .. v.key .. v.entry .. v.exit .. v.dims
end
local function unpack_visit(s)
  local start, last, pages, events, engaged, version, entry_at, exit_at, id, key, entry, exit, at = struct.unpack(VISIT, s)
  local function take(n) at = at + n; return string.sub(s, at - n, at - 1) end
  return {start = start, last = last, pages = pages, events = events, engaged = engaged, version = version, entry_at = entry_at,
          exit_at = exit_at, id = take(id), key = take(key), entry = take(entry), exit = take(exit), dims = string.sub(s, at)}
end

local function whole(n) return type(n) == 'number' and n >= 0 and n <= WHOLE_MAX and n % 1 == 0 end
local function short(s) return type(s) == 'string' and #s <= STRING_MAX end
local function timed_page(page) return type(page) == 'table' and (#page == 0 or #page == 2 and whole(page[1]) and short(page[2])) end

-- What is wrong with a call, if anything: an error in the middle of its writes would leave half of it behind.
local function wrong(batches, visits, counters, uniques)
  for _, array in ipairs({batches, visits, counters, uniques}) do
    if type(array) ~= 'table' then return 'not an array' end
  end
  if #batches % 4 ~= 0 or #visits % 9 ~= 0 or #counters % 2 ~= 0 then return 'array length' end
  if #batches > 4 * BATCHES_MAX or #visits > 9 * BATCHES_MAX then return 'too many batches' end
  for i = 1, #batches, 4 do
    local hour, sid, seq, lsn = batches[i], batches[i + 1], batches[i + 2], batches[i + 3]
    if not short(hour) or not ACCEPT_MS[string.match(hour, '^(%d):%d+$') or ''] then return 'class and hour' end
    if not short(sid) or not whole(seq) or seq < 1 or seq > SEQ_MAX or not whole(lsn) then return 'sid, seq and lsn' end
  end
  for i = 1, #visits, 9 do
    local key, inc = visits[i + 1], visits[i + 5]
    if not short(key) or not string.find(key, ':', 1, true) then return 'visit key' end
    if not whole(visits[i]) or not whole(visits[i + 3]) or not whole(visits[i + 4]) then return 'visit times' end
    if type(inc) ~= 'table' or not whole(inc[1]) or not whole(inc[2]) or not whole(inc[3]) then return 'visit increments' end
    if not timed_page(visits[i + 6]) or not timed_page(visits[i + 7]) then return 'visit pages' end
    if not short(visits[i + 2]) or not short(visits[i + 8]) then return 'visit id and dimensions' end
  end
  for i = 1, #counters, 2 do
    if not short(counters[i]) or not whole(counters[i + 1]) then return 'counters' end
  end
  for _, member in ipairs(uniques) do
    if not short(member) then return 'uniques' end
  end
end

local function fenced(p, gateway, incarnation, approved)
  if redis.call('GET', p .. 'e') ~= approved then return 'WAIT' end
  if redis.call('HGET', p .. 'i', gateway) ~= incarnation then return 'FENCED' end
end

-- Who is on a site now. What no live figure can count any more goes at once, so that this stays as small as the present is.
local function present(p, now, seen)
  local gone = '(' .. string.format('%.0f', now - PRESENT_MS)
  for site, arrivals in pairs(seen) do
    in_chunks('ZADD', p .. 'l:' .. site, arrivals)
    redis.call('ZREMRANGEBYSCORE', p .. 'l:' .. site, '-inf', gone)
    redis.call('ZADD', p .. 'ls', now, site)
  end
  for _, site in ipairs(redis.call('ZRANGE', p .. 'ls', '-inf', gone, 'BYSCORE', 'LIMIT', 0, 100)) do
    redis.call('UNLINK', p .. 'l:' .. site)
    redis.call('ZREM', p .. 'ls', site)
  end
end

-- apply: shard, gateway, incarnation, prev, last, epoch:run, now ms, then cmsgpack arrays
--   batches   flat, 4 an entry: "<class>:<hour>", sid, seq, lsn
--   visits    flat, 9 an entry: lsn, "<site>:<visitor>", batch id, first ms, last ms, {pageviews, events, engaged ms},
--             {entry ms, entry page} or {}, {exit ms, exit page} or {}, dimensions
--   counters  flat: field, increment      uniques  members
-- -> OK, outcomes | WAIT | FENCED | GAP, applied LSN | DUPS, LSNs | REPEAT, LSN
local function apply(_, argv)
  local s, gw, prev, last, now = argv[1], argv[2], tonumber(argv[4]), tonumber(argv[5]), tonumber(argv[7])
  local p = '{' .. s .. '}:'
  if not whole(prev) or not whole(last) or last <= prev or not whole(now) then return redis.error_reply('BADARG prev, last, now') end
  local no = fenced(p, gw, argv[3], argv[6])
  if no then return {no} end
  local have = tonumber(redis.call('HGET', p .. 'a', gw) or 0)
  if have >= last then return {'OK', redis.call('HGET', p .. 'x:' .. gw, argv[5]) or ''} end     -- a repeated call changes nothing
  if have ~= prev then return {'GAP', have} end
  local batches, visits = cmsgpack.unpack(argv[8]), cmsgpack.unpack(argv[9])
  local counters, uniques = cmsgpack.unpack(argv[10]), cmsgpack.unpack(argv[11])

  -- Reads and checks.
  local problem = wrong(batches, visits, counters, uniques)
  if problem then return redis.error_reply('BADARG ' .. problem) end
  local hours, hit = {}, {}
  for i = 1, #batches, 4 do
    local hour, sid, seq = batches[i], batches[i + 1], batches[i + 2]
    local h = hours[hour]
    if not h then h = {sids = {}, seqs = {}}; hours[hour] = h end
    local seqs = h.seqs[sid]
    if not seqs then seqs = {}; h.seqs[sid] = seqs; h.sids[#h.sids + 1] = sid end
    if seqs[seq] then return {'REPEAT', batches[i + 3]} end
    seqs[seq] = true
  end
  for hour, h in pairs(hours) do
    h.bits = {}
    for k, bits in ipairs(redis.call('HMGET', p .. 'd:' .. hour, unpack(h.sids))) do h.bits[h.sids[k]] = bits or '' end
  end
  for i = 1, #batches, 4 do
    if bit_is_set(hours[batches[i]].bits[batches[i + 1]], batches[i + 2]) then hit[#hit + 1] = batches[i + 3] end
  end
  if #hit > 0 then return {'DUPS', unpack(hit)} end
  local running, keys_of_visits = {}, {}
  for i = 1, #visits, 9 do
    local key = visits[i + 1]
    if running[key] == nil then running[key] = false; keys_of_visits[#keys_of_visits + 1] = key end
  end
  if #keys_of_visits > 0 then
    local names = {}
    for k, key in ipairs(keys_of_visits) do names[k] = p .. 'v:' .. key end
    for k, packed in ipairs(redis.call('MGET', unpack(names))) do
      if packed then running[keys_of_visits[k]] = unpack_visit(packed) end
    end
  end
  local open = redis.call('MGET', p .. 'ver', p .. 'n')
  local version, flush = tonumber(open[1] or 0), open[2] or '0'

  -- Writes.
  for hour, h in pairs(hours) do
    local fields = {}
    for _, sid in ipairs(h.sids) do
      fields[#fields + 1] = sid
      fields[#fields + 1] = with_bits(h.bits[sid], h.seqs[sid])
    end
    in_chunks('HSET', p .. 'd:' .. hour, fields)
    redis.call('SADD', p .. 'dh', hour)
  end
  local outcomes, touched, seen = {}, {}, {}
  for i = 1, #visits, 9 do
    local key, first, final, inc, entry, exit = visits[i + 1], visits[i + 3], visits[i + 4], visits[i + 5], visits[i + 6], visits[i + 7]
    local v = running[key]
    if not v or first - v.last > VISIT_GAP_MS or v.start - final > VISIT_GAP_MS then
      v = {start = first, last = final, pages = 0, events = 0, engaged = 0, id = visits[i + 2], key = key, entry_at = 0, entry = '',
           exit_at = 0, exit = '', dims = visits[i + 8]}
      running[key] = v
    end
    if first < v.start then v.start = first end
    if final > v.last then v.last = final end
    if entry[1] and (v.entry_at == 0 or entry[1] < v.entry_at) then v.entry_at, v.entry = entry[1], entry[2] end
    if exit[1] and exit[1] >= v.exit_at then v.exit_at, v.exit = exit[1], exit[2] end
    v.pages, v.events, v.engaged = v.pages + inc[1], v.events + inc[2], v.engaged + inc[3]
    version = version + 1
    v.version = version
    touched[v] = key
    outcomes[#outcomes + 1] = visits[i]
    outcomes[#outcomes + 1] = v.id
    local site = string.match(key, '^(.*):')
    seen[site] = seen[site] or {}
    local arrivals = seen[site]
    arrivals[#arrivals + 1] = argv[7]
    arrivals[#arrivals + 1] = string.sub(key, #site + 2)
  end
  local newest = {}
  for v, key in pairs(touched) do
    local packed = pack_visit(v)
    if running[key] == v then redis.call('SET', p .. 'v:' .. key, packed, 'PX', VISIT_KEPT_MS) end
    newest[#newest + 1] = v.id
    newest[#newest + 1] = packed
  end
  if #newest > 0 then in_chunks('HSET', p .. 'wv:' .. flush, newest) end
  present(p, now, seen)
  for i = 1, #counters, 2 do
    local bucket = string.byte(counters[i]) == KIND_TOTAL and 'wt:' or 'w:'
    redis.call('HINCRBY', p .. bucket .. flush, counters[i], counters[i + 1])
  end
  if #uniques > 0 then in_chunks('SADD', p .. 'wu:' .. flush, uniques) end
  local stored = cmsgpack.pack(outcomes)
  redis.call('SET', p .. 'ver', version)
  redis.call('HSET', p .. 'x:' .. gw, argv[5], stored)
  redis.call('HSET', p .. 'a', gw, argv[5])
  return {'OK', stored}
end

-- register: shard, gateway, incarnation, epoch:run -> OK, applied LSN, floor of its clock. A barrier follows before the answer is used.
local function register(_, argv)
  local p, gw = '{' .. argv[1] .. '}:', argv[2]
  if redis.call('GET', p .. 'e') ~= argv[4] then return {'WAIT'} end
  redis.call('HSET', p .. 'i', gw, argv[3])
  redis.call('HSETNX', p .. 'a', gw, 0)
  local mark = tonumber(string.match(redis.call('HGET', p .. 'b', gw) or '', '^%d+') or 0)
  return {'OK', tonumber(redis.call('HGET', p .. 'a', gw)), math.max(mark, tonumber(redis.call('GET', p .. 'h') or 0))}
end

-- retire: shard, gateway, epoch:run. Its applied LSN stays: what it counted is counted.
local function retire(_, argv)
  local p, gw = '{' .. argv[1] .. '}:', argv[2]
  if redis.call('GET', p .. 'e') ~= argv[3] then return {'WAIT'} end
  redis.call('HDEL', p .. 'i', gw)
  redis.call('HDEL', p .. 'b', gw)
  return {'OK'}
end

-- watermark: shard, gateway, incarnation, epoch:run, mark ms, lsn. Everything up to lsn is applied, nothing behind it arrived before mark.
local function watermark(_, argv)
  local gw, lsn = argv[2], tonumber(argv[6])
  local p = '{' .. argv[1] .. '}:'
  local no = fenced(p, gw, argv[3], argv[4])
  if no then return {no} end
  local have = tonumber(redis.call('HGET', p .. 'a', gw) or 0)
  if have ~= lsn then return {'GAP', have} end
  redis.call('HSET', p .. 'b', gw, argv[5] .. ':' .. argv[6])
  for _, last in ipairs(redis.call('HKEYS', p .. 'x:' .. gw)) do
    if tonumber(last) <= lsn then redis.call('HDEL', p .. 'x:' .. gw, last) end
  end
  return {'OK'}
end

-- approve: shard, term, epoch, run id. The leader has compared this Redis process with central.
local function approve(_, argv)
  local p, term = '{' .. argv[1] .. '}:', tonumber(argv[2])
  if not whole(term) then return redis.error_reply('BADARG term') end
  if term < tonumber(redis.call('GET', p .. 't') or 0) then return {'FENCED'} end
  redis.call('MSET', p .. 't', argv[2], p .. 'e', argv[3] .. ':' .. argv[4])
  return {'OK'}
end

-- `approved` names epoch and process, the term its leader.
local function deposed(p, term, approved)
  if redis.call('GET', p .. 'e') ~= approved then return 'WAIT' end
  if tonumber(term) < tonumber(redis.call('GET', p .. 't') or 0) then return 'FENCED' end
end

local function lowest_watermark(p)
  local mark = math.huge
  for _, gw in ipairs(redis.call('HKEYS', p .. 'i')) do
    mark = math.min(mark, tonumber(string.match(redis.call('HGET', p .. 'b', gw) or '', '^%d+') or 0))
  end
  return mark == math.huge and 0 or mark
end

-- Bitmaps go when no registered gateway can still hold a batch of theirs, just before a cut: so no cut carries a watermark
-- higher than the one the horizon was moved by.
local function delete_bitmaps(p, mark)
  local horizon = tonumber(redis.call('GET', p .. 'h') or 0)
  for _, hour in ipairs(redis.call('SMEMBERS', p .. 'dh')) do
    local class, number = string.match(hour, '^(%d):(%d+)$')
    local over = (tonumber(number) + 1) * HOUR_MS + ACCEPT_MS[class]
    if over < mark then
      redis.call('UNLINK', p .. 'd:' .. hour)
      redis.call('SREM', p .. 'dh', hour)
      horizon = math.max(horizon, over)
    end
  end
  redis.call('SET', p .. 'h', string.format('%.0f', horizon))
end

local function flush_facts(n, facts)
  local answer = {'OK', n, facts[1], facts[2]}
  for _, position in ipairs(facts[3]) do answer[#answer + 1] = position end
  return answer
end

-- cut: shard, term, epoch:run, now ms -> OK, flush, now of its cut, watermark, gateway, LSN, … One at a time: while a flush
-- is not settled the answer is that flush again. A barrier follows, then its bucket is read.
local function cut(_, argv)
  local p = '{' .. argv[1] .. '}:'
  local no = deposed(p, argv[2], argv[3])
  if no then return {no} end
  local unsettled = redis.call('HGETALL', p .. 'c')
  if #unsettled > 0 then return flush_facts(unsettled[1], cmsgpack.unpack(unsettled[2])) end
  local mark, n = lowest_watermark(p), redis.call('GET', p .. 'n') or '0'
  delete_bitmaps(p, mark)
  local facts = {argv[4], string.format('%.0f', mark), redis.call('HGETALL', p .. 'a')}
  redis.call('SET', p .. 't', argv[2])
  redis.call('HSET', p .. 'c', n, cmsgpack.pack(facts))
  redis.call('SET', p .. 'n', string.format('%.0f', n + 1))
  return flush_facts(n, facts)
end

-- durable: shard, term, epoch:run, gateway, LSN, … Central has been told this vector after a barrier.
local function durable(_, argv)
  local p = '{' .. argv[1] .. '}:'
  local no = deposed(p, argv[2], argv[3])
  if no then return {no} end
  for i = 4, #argv, 2 do
    if not whole(tonumber(argv[i + 1])) then return redis.error_reply('BADARG vector') end
  end
  for i = 4, #argv, 2 do
    if tonumber(argv[i + 1]) > tonumber(redis.call('HGET', p .. 'k', argv[i]) or 0) then redis.call('HSET', p .. 'k', argv[i], argv[i + 1]) end
  end
  return {'OK'}
end

-- settle: shard, term, epoch:run, flush; after central's ack -> OK, 1 if it was there.
local function settle(_, argv)
  local p, n = '{' .. argv[1] .. '}:', argv[4]
  local no = deposed(p, argv[2], argv[3])
  if no then return {no} end
  if redis.call('HDEL', p .. 'c', n) == 0 then return {'OK', 0} end            -- never the open bucket
  redis.call('UNLINK', p .. 'w:' .. n, p .. 'wt:' .. n, p .. 'wu:' .. n, p .. 'wv:' .. n)
  return {'OK', 1}
end

-- A full Redis refuses what would fill it further, apply, and nothing else: settle is what empties it.
local function register_also_when_full(name, callback)
  redis.register_function{function_name = name, callback = callback, flags = {'allow-oom'}}
end
redis.register_function('tideline_apply', apply)
register_also_when_full('tideline_register', register)
register_also_when_full('tideline_retire', retire)
register_also_when_full('tideline_watermark', watermark)
register_also_when_full('tideline_approve', approve)
register_also_when_full('tideline_cut', cut)
register_also_when_full('tideline_durable', durable)
register_also_when_full('tideline_settle', settle)
