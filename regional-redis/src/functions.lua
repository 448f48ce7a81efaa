#!lua name=tideline
-- What a region's Redis does in one step: the state machine behind the gateways' logs. One shard a call, every key in the
-- slot {shard}. docs/decisions/delivery.md says why each rule is there.
--
--   e  epoch:run id, approved by the leader; "epoch:" while a rebuild is prepared, which approves nobody
--   g  whose Redis this is: its region
--   t  term of the leader                       ld its sign of life              n  number of the open flush
--   i  gateway -> incarnation                   a  gateway -> applied LSN        k  gateway -> durable LSN
--   ai gateway -> incarnation whose call moved its applied LSN
--   r  gateways that a rebuild waits for        rg retired gateways              rn batches that a rebuild remembered
--   b  gateway -> watermark:LSN                 q  replicas that a barrier waits for
--   x:<gateway>  last LSN of a call -> its outcomes: {epoch, the call's prev, {LSN, visit id or '', ... of each named batch}}
--   o  gateway -> last LSN whose outcomes a settled flush carried
--   d:<class>:<hour>  sid -> bits of its seqs   dh  which of these there are     h  highest watermark of a cut, ms
--   vs:<site>:<visitor>  the visits that batches may still join, {when it was touched, state, ...}, the last touched first; or the
--                        name under which they are, near midnight       ver  version of the newest visit state
--   the bucket of flush n: w:<n> counters, wt:<n> those of kind total, wu:<n> uniques, wv:<n> newest states of visits;
--   from the cut on also wo:<n>  <gateway>:<last LSN> -> outcomes that no gateway has logged and no settled flush carried
--   c  cut flush -> its vector, watermark and time
--   l:<site>  visitors by arrival, for the live figure     ls  sites by their last arrival
--
-- Redis does not roll a function back: every key is read and every argument checked before the first write.
local VISIT_GAP_MS, VISIT_KEPT_MS, VISITS_MAX, PLACES_MAX = 30 * 60 * 1000, 60 * 60 * 1000, 8, 8
local SEQ_MAX, BATCHES_MAX = 4096, 1000
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
  if #batches % 4 ~= 0 or #visits % 10 ~= 0 or #counters % 2 ~= 0 then return 'array length' end
  if #batches > 4 * BATCHES_MAX or #visits > 10 * BATCHES_MAX then return 'too many batches' end
  for i = 1, #batches, 4 do
    local hour, sid, seq, lsn = batches[i], batches[i + 1], batches[i + 2], batches[i + 3]
    if not short(hour) or not ACCEPT_MS[string.match(hour, '^(%d):%d+$') or ''] then return 'class and hour' end
    if not short(sid) or not whole(seq) or seq < 1 or seq > SEQ_MAX or not whole(lsn) then return 'sid, seq and lsn' end
  end
  for i = 1, #visits, 10 do
    local key, inc, other = visits[i + 1], visits[i + 5], visits[i + 9]
    if not short(key) or not string.find(key, ':', 1, true) then return 'visit key' end
    if not short(other) or other == key or other ~= '' and not string.find(other, ':', 1, true) then return 'other visit key' end
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
  if redis.call('GET', p .. 'e') ~= approved then return 'WAIT' end                     -- what was not compared with central counts nothing
  if redis.call('HGET', p .. 'i', gateway) ~= incarnation then return 'FENCED' end      -- an old incarnation's call comes too late
end

-- Counts go on when every gateway has remembered what it had counted: until then a copy on another gateway would pass for new.
local function rebuilding(p) return redis.call('EXISTS', p .. 'r') == 1 end

-- Gathers batches by hour and sid: the bits that are set, and those to set. Answers the LSN of one named twice.
local function bits_of(p, batches)
  local hours = {}
  for i = 1, #batches, 4 do
    local hour, sid, seq = batches[i], batches[i + 1], batches[i + 2]
    local h = hours[hour]
    if not h then h = {sids = {}, seqs = {}, bits = {}}; hours[hour] = h end
    local seqs = h.seqs[sid]
    if not seqs then seqs = {}; h.seqs[sid] = seqs; h.sids[#h.sids + 1] = sid end
    if seqs[seq] then return hours, batches[i + 3] end
    seqs[seq] = true
  end
  for hour, h in pairs(hours) do
    for k, bits in ipairs(redis.call('HMGET', p .. 'd:' .. hour, unpack(h.sids))) do h.bits[h.sids[k]] = bits or '' end
  end
  return hours
end

local function set_bits(p, hours)
  for hour, h in pairs(hours) do
    local fields = {}
    for _, sid in ipairs(h.sids) do
      fields[#fields + 1] = sid
      fields[#fields + 1] = with_bits(h.bits[sid], h.seqs[sid])
    end
    in_chunks('HSET', p .. 'd:' .. hour, fields)
    redis.call('SADD', p .. 'dh', hour)
  end
end

-- A visitor has one visit at a time, and by the times of late events others beside it: what a device kept for hours must
-- not end the visit of the page that is open now. After midnight his visits go on under another name.
local function unpack_visits(packed)
  local visits = {}
  for i = 1, #packed, 2 do
    local v = unpack_visit(packed[i + 1])
    v.touched, v.packed = packed[i], packed[i + 1]
    visits[#visits + 1] = v
  end
  return visits
end
local function pack_visits(visits, since)
  local packed = {}
  for _, v in ipairs(visits) do
    if v.touched > since and #packed < 2 * VISITS_MAX then
      packed[#packed + 1] = v.touched
      packed[#packed + 1] = v.packed
    end
  end
  return cmsgpack.pack(packed)
end

-- The visits of these names: of each name where they are, and of each such place which. A name that leads nowhere, which
-- nobody writes, is one of its own: nothing may fail or go round behind the first write.
local function read_visits(p, names)
  local place_of, visits_at = {}, {}
  while #names > 0 do
    local keys, elsewhere = {}, {}
    for k, name in ipairs(names) do keys[k] = p .. 'vs:' .. name end
    for k, packed in ipairs(redis.call('MGET', unpack(keys))) do
      local name, stored = names[k], packed and cmsgpack.unpack(packed) or {}
      if type(stored) == 'table' then
        place_of[name], visits_at[name] = name, unpack_visits(stored)
      else
        place_of[name] = stored
        elsewhere[#elsewhere + 1] = stored
      end
    end
    names = {}
    for _, name in ipairs(elsewhere) do
      if not place_of[name] then place_of[name] = name; names[#names + 1] = name end
    end
  end
  for name in pairs(place_of) do
    local at, steps = name, 0
    while place_of[at] ~= at and steps < PLACES_MAX do at, steps = place_of[at], steps + 1 end
    if not visits_at[at] then place_of[name], visits_at[name] = name, {} end
  end
  return place_of, visits_at
end

-- Where of `visits`, the last touched first, one is that a batch from `first` to `final` belongs to.
local function find_visit(visits, first, final)
  for i, v in ipairs(visits) do
    if first - v.last <= VISIT_GAP_MS and v.start - final <= VISIT_GAP_MS then return i end
  end
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
--   visits    flat, 10 an entry: lsn, "<site>:<visitor>", batch id, first ms, last ms, {pageviews, events, engaged ms},
--             {entry ms, entry page} or {}, {exit ms, exit page} or {}, dimensions, "<site>:<the visitor under the other
--             day's salt>" near midnight or ''
--   counters  flat: field, increment      uniques  members
-- -> OK, outcomes | WAIT | FENCED | GAP, applied LSN | DUPS, LSNs | REPEAT, LSN
local function apply(_, argv)
  local s, gw, prev, last, now = argv[1], argv[2], tonumber(argv[4]), tonumber(argv[5]), tonumber(argv[7])
  local p = '{' .. s .. '}:'
  if not whole(prev) or not whole(last) or last <= prev or not whole(now) then return redis.error_reply('BADARG prev, last, now') end
  local no = fenced(p, gw, argv[3], argv[6])
  if no then return {no} end
  if rebuilding(p) then return {'WAIT'} end
  local have = tonumber(redis.call('HGET', p .. 'a', gw) or 0)
  local outcomes = have >= last and redis.call('HGET', p .. 'x:' .. gw, argv[5])
  if outcomes then return {'OK', outcomes} end                  -- a repeated call changes nothing
  if have ~= prev then return {'GAP', have} end                 -- records before this call are missing, or it comes too late
  local batches, visits = cmsgpack.unpack(argv[8]), cmsgpack.unpack(argv[9])
  local counters, uniques = cmsgpack.unpack(argv[10]), cmsgpack.unpack(argv[11])

  -- Reads and checks.
  local problem = wrong(batches, visits, counters, uniques)
  if problem then return redis.error_reply('BADARG ' .. problem) end
  local hours, twice = bits_of(p, batches)
  if twice then return {'REPEAT', twice} end
  local hit = {}
  for i = 1, #batches, 4 do
    if bit_is_set(hours[batches[i]].bits[batches[i + 1]], batches[i + 2]) then hit[#hit + 1] = batches[i + 3] end
  end
  if #hit > 0 then return {'DUPS', unpack(hit)} end
  local names, named = {}, {}
  for i = 1, #visits, 10 do
    for _, name in ipairs({visits[i + 1], visits[i + 9]}) do
      if name ~= '' and not named[name] then named[name] = true; names[#names + 1] = name end
    end
  end
  local place_of, visits_at = read_visits(p, names)
  local function place(name)
    while place_of[name] ~= name do name = place_of[name] end
    return name
  end
  local open = redis.call('MGET', p .. 'ver', p .. 'n')
  local version, flush = tonumber(open[1] or 0), open[2] or '0'

  -- Writes.
  set_bits(p, hours)
  local touched, changed, seen, visit_of = {}, {}, {}, {}
  for i = 1, #visits, 10 do
    local name, first, final, inc, entry, exit = visits[i + 1], visits[i + 3], visits[i + 4], visits[i + 5], visits[i + 6], visits[i + 7]
    local here, other = place(name), visits[i + 9]
    local mine = visits_at[here]
    local at = find_visit(mine, first, final)
    local there = not at and other ~= '' and place(other)
    if there and find_visit(visits_at[there], first, final) then                 -- the salt changed, the visit goes on
      for _, v in ipairs(visits_at[there]) do mine[#mine + 1] = v end
      table.sort(mine, function(a, b) return a.touched > b.touched end)
      place_of[there], visits_at[there], changed[there] = here, nil, true
      at = find_visit(mine, first, final)
    end
    local v = at and table.remove(mine, at)
    if not v then
      v = {start = first, last = final, pages = 0, events = 0, engaged = 0, id = visits[i + 2], key = name, entry_at = 0, entry = '',
           exit_at = 0, exit = '', dims = visits[i + 8]}
    end
    table.insert(mine, 1, v)
    v.touched, changed[name], changed[here] = now, true, true
    if first < v.start then v.start = first end
    if final > v.last then v.last = final end
    if entry[1] and (v.entry_at == 0 or entry[1] < v.entry_at) then v.entry_at, v.entry = entry[1], entry[2] end
    if exit[1] and exit[1] >= v.exit_at then v.exit_at, v.exit = exit[1], exit[2] end
    v.pages, v.events, v.engaged = v.pages + inc[1], v.events + inc[2], v.engaged + inc[3]
    version = version + 1
    v.version = version
    touched[v] = true
    visit_of[visits[i]] = v.id
    local site = string.match(name, '^(.*):')
    seen[site] = seen[site] or {}
    local arrivals = seen[site]
    arrivals[#arrivals + 1] = argv[7]
    arrivals[#arrivals + 1] = string.sub(name, #site + 2)
  end
  local newest = {}
  for v in pairs(touched) do
    v.packed = pack_visit(v)
    newest[#newest + 1] = v.id
    newest[#newest + 1] = v.packed
  end
  for name in pairs(changed) do
    local visits_here = visits_at[name]
    local stored = visits_here and pack_visits(visits_here, now - VISIT_KEPT_MS) or cmsgpack.pack(place(name))
    redis.call('SET', p .. 'vs:' .. name, stored, 'PX', VISIT_KEPT_MS)
  end
  if #newest > 0 then in_chunks('HSET', p .. 'wv:' .. flush, newest) end
  present(p, now, seen)
  for i = 1, #counters, 2 do
    local bucket = string.byte(counters[i]) == KIND_TOTAL and 'wt:' or 'w:'
    redis.call('HINCRBY', p .. bucket .. flush, counters[i], counters[i + 1])
  end
  if #uniques > 0 then in_chunks('SADD', p .. 'wu:' .. flush, uniques) end
  local decided = {}
  for i = 4, #batches, 4 do
    decided[#decided + 1] = batches[i]
    decided[#decided + 1] = visit_of[batches[i]] or ''
  end
  local stored = cmsgpack.pack({tonumber(string.match(argv[6], '^%d+')), prev, decided})
  redis.call('SET', p .. 'ver', version)
  redis.call('HSET', p .. 'x:' .. gw, argv[5], stored)
  redis.call('HSET', p .. 'a', gw, argv[5])
  redis.call('HSET', p .. 'ai', gw, argv[3])
  return {'OK', stored}
end

-- register: shard, gateway, incarnation, epoch:run -> OK, floor of its clock, applied LSN, incarnation that applied it, or '' |
-- REBUILD, floor | REBUILDING | RETIRED | WAIT. REBUILDING: others are waited for, and nothing is written. A barrier follows
-- before the answer is used.
local function register(_, argv)
  local p, gw = '{' .. argv[1] .. '}:', argv[2]
  if redis.call('GET', p .. 'e') ~= argv[4] then return {'WAIT'} end
  if redis.call('SISMEMBER', p .. 'rg', gw) == 1 then return {'RETIRED'} end   -- central's rows stand in for its log
  local remembers = redis.call('SISMEMBER', p .. 'r', gw) == 1
  if rebuilding(p) and not remembers then return {'REBUILDING'} end             -- it would be ready, and count nothing
  local mark = tonumber(string.match(redis.call('HGET', p .. 'b', gw) or '', '^%d+') or 0)
  local floor = math.max(mark, tonumber(redis.call('GET', p .. 'h') or 0))
  redis.call('HSET', p .. 'i', gw, argv[3])
  if remembers then return {'REBUILD', floor} end
  redis.call('HSETNX', p .. 'a', gw, 0)
  return {'OK', floor, tonumber(redis.call('HGET', p .. 'a', gw)), redis.call('HGET', p .. 'ai', gw) or ''}
end

-- retire: shard, gateway, epoch:run. Its applied LSN stays until a settled flush covers it: what it counted is counted.
local function retire(_, argv)
  local p, gw = '{' .. argv[1] .. '}:', argv[2]
  if redis.call('GET', p .. 'e') ~= argv[3] then return {'WAIT'} end
  redis.call('HDEL', p .. 'i', gw)
  redis.call('HDEL', p .. 'b', gw)
  redis.call('SADD', p .. 'rg', gw)
  return {'OK'}
end

-- Outcomes of calls up to this LSN go.
local function forget_outcomes(p, gw, logged)
  for _, last in ipairs(redis.call('HKEYS', p .. 'x:' .. gw)) do
    if tonumber(last) <= logged then redis.call('HDEL', p .. 'x:' .. gw, last) end
  end
end

-- watermark: shard, gateway, incarnation, epoch:run, mark ms, applied LSN, logged LSN -> OK, durable LSN. Nothing behind the
-- applied one arrived before mark; a mark of 0 says nothing new. Outcomes up to the logged one are in the gateway's own log.
local function watermark(_, argv)
  local gw, lsn, logged = argv[2], tonumber(argv[6]), tonumber(argv[7])
  local p = '{' .. argv[1] .. '}:'
  if not whole(lsn) or not whole(logged) then return redis.error_reply('BADARG lsn') end
  local no = fenced(p, gw, argv[3], argv[4])
  if no then return {no} end
  if rebuilding(p) then return {'WAIT'} end
  local have = tonumber(redis.call('HGET', p .. 'a', gw) or 0)
  if have ~= lsn then return {'GAP', have} end                  -- an idle gateway learns of a rollback here
  if argv[5] ~= '0' then redis.call('HSET', p .. 'b', gw, argv[5] .. ':' .. argv[6]) end
  forget_outcomes(p, gw, logged)
  return {'OK', tonumber(redis.call('HGET', p .. 'k', gw) or 0)}
end

-- Sets bits of batches that were counted or dropped before Redis was lost; those that are set stay set.
local function remember_batches(p, packed)
  local batches, fresh = cmsgpack.unpack(packed), 0
  local problem = wrong(batches, {}, {}, {})
  if problem then return redis.error_reply('BADARG ' .. problem) end
  local hours, twice = bits_of(p, batches)
  if twice then return redis.error_reply('BADARG a batch is named twice') end
  for _, h in pairs(hours) do
    for sid, seqs in pairs(h.seqs) do
      for seq in pairs(seqs) do
        if bit_is_set(h.bits[sid], seq) then seqs[seq] = nil else fresh = fresh + 1 end
      end
    end
  end
  set_bits(p, hours)
  if fresh > 0 then redis.call('INCRBY', p .. 'rn', fresh) end
  return {'OK'}
end

-- remember: shard, gateway, incarnation, epoch:run, batches as for apply. Of a gateway that the rebuild waits for.
local function remember(_, argv)
  local p = '{' .. argv[1] .. '}:'
  local no = fenced(p, argv[2], argv[3], argv[4])
  if no then return {no} end
  if redis.call('SISMEMBER', p .. 'r', argv[2]) == 0 then return {'WAIT'} end
  return remember_batches(p, argv[5])
end

-- rebuilt: shard, gateway, incarnation, epoch:run, LSN. Every batch that it had counted up to there is remembered.
local function rebuilt(_, argv)
  local p, gw, lsn = '{' .. argv[1] .. '}:', argv[2], tonumber(argv[5])
  if not whole(lsn) then return redis.error_reply('BADARG lsn') end
  local no = fenced(p, gw, argv[3], argv[4])
  if no then return {no} end
  if redis.call('SISMEMBER', p .. 'r', gw) == 0 then
    return {redis.call('HGET', p .. 'a', gw) == argv[5] and 'OK' or 'WAIT'}    -- a repeated call changes nothing
  end
  redis.call('HSET', p .. 'a', gw, argv[5])
  redis.call('HSET', p .. 'ai', gw, argv[3])
  redis.call('SREM', p .. 'r', gw)
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

-- sign: shard, term, count, ms. The leader of this term is alive.
local function sign(_, argv)
  local p = '{' .. argv[1] .. '}:'
  if tonumber(argv[2]) < tonumber(redis.call('GET', p .. 't') or 0) then return {'FENCED'} end
  redis.call('SET', p .. 'ld', argv[2] .. ':' .. argv[3], 'PX', argv[4])
  return {'OK'}
end

-- barrier: shard, replicas to wait for. A write for a barrier to wait for, and what it waits for.
local function barrier(_, argv)
  redis.call('SET', '{' .. argv[1] .. '}:q', argv[2])
  return {'OK'}
end

-- `approved` names epoch and process, the term its leader.
local function deposed(p, term, approved)
  if redis.call('GET', p .. 'e') ~= approved then return 'WAIT' end                           -- another epoch, or another process
  if tonumber(term) < tonumber(redis.call('GET', p .. 't') or 0) then return 'FENCED' end     -- another leader
end

local function lowest_watermark(p)
  local mark = math.huge
  for _, gw in ipairs(redis.call('HKEYS', p .. 'i')) do
    mark = math.min(mark, tonumber(string.match(redis.call('HGET', p .. 'b', gw) or '', '^%d+') or 0))
  end
  return mark == math.huge and 0 or mark
end

-- Bitmaps go when no registered gateway can still hold a batch of theirs.
local function delete_bitmaps(p, mark)
  for _, hour in ipairs(redis.call('SMEMBERS', p .. 'dh')) do
    local class, number = string.match(hour, '^(%d):(%d+)$')
    local over = (tonumber(number) + 1) * HOUR_MS + ACCEPT_MS[class]
    if over < mark then
      redis.call('UNLINK', p .. 'd:' .. hour)
      redis.call('SREM', p .. 'dh', hour)
    end
  end
end

-- What no gateway has logged travels with the flush, once: the outcomes behind the last settled flush.
local function keep_outcomes(p, n, vector)
  for i = 1, #vector, 2 do
    local gw, carried = vector[i], tonumber(redis.call('HGET', p .. 'o', vector[i]) or 0)
    for _, last in ipairs(redis.call('HKEYS', p .. 'x:' .. gw)) do
      if tonumber(last) > carried then
        redis.call('HSET', p .. 'wo:' .. n, gw .. ':' .. last, redis.call('HGET', p .. 'x:' .. gw, last))
      end
    end
  end
end

local function flush_facts(n, facts)
  local answer, vector, appliers, by = {'OK', n, facts[1], facts[2]}, facts[3], facts[4] or {}, {}
  for i = 1, #appliers, 2 do by[appliers[i]] = appliers[i + 1] end
  for i = 1, #vector, 2 do
    for _, field in ipairs({vector[i], vector[i + 1], by[vector[i]] or ''}) do answer[#answer + 1] = field end
  end
  return answer
end

-- cut: shard, term, epoch:run, now ms -> OK, flush, now of its cut, watermark, gateway, LSN, incarnation that applied it or '', …
-- One at a time: while a flush is not settled the answer is that flush again. A barrier follows, then its bucket is read. None
-- during a rebuild: REBUILD.
local function cut(_, argv)
  local p = '{' .. argv[1] .. '}:'
  local no = deposed(p, argv[2], argv[3])
  if no then return {no} end
  local unsettled = redis.call('HGETALL', p .. 'c')
  if #unsettled > 0 then return flush_facts(unsettled[1], cmsgpack.unpack(unsettled[2])) end
  if rebuilding(p) then return {'REBUILD'} end                  -- a vector without those who are waited for; bitmaps would go
  local mark, n = lowest_watermark(p), redis.call('GET', p .. 'n') or '0'
  delete_bitmaps(p, mark)
  -- No clock starts below what bits go and logs are trimmed by: a newcomer must not log what they have forgotten.
  local horizon = tonumber(redis.call('GET', p .. 'h') or 0)
  if mark > horizon then redis.call('SET', p .. 'h', string.format('%.0f', mark)) end
  local facts = {argv[4], string.format('%.0f', mark), redis.call('HGETALL', p .. 'a'), redis.call('HGETALL', p .. 'ai')}
  keep_outcomes(p, n, facts[3])
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

-- settle: shard, term, epoch:run, flush; after central's ack -> OK, 1 if it was there. What is known of a retired gateway goes
-- with the flush that covers all that it applied: central knows it from then on.
local function settle(_, argv)
  local p, n = '{' .. argv[1] .. '}:', argv[4]
  local no = deposed(p, argv[2], argv[3])
  if no then return {no} end
  local facts = redis.call('HGET', p .. 'c', n)
  if not facts then return {'OK', 0} end                        -- never the open bucket
  local vector = cmsgpack.unpack(facts)[3]
  in_chunks('HSET', p .. 'o', vector)
  for i = 1, #vector, 2 do
    local gw, covered = vector[i], tonumber(vector[i + 1])
    if redis.call('SISMEMBER', p .. 'rg', gw) == 1 then
      forget_outcomes(p, gw, covered)                           -- nobody will ask for what it did not log
      if tonumber(redis.call('HGET', p .. 'a', gw) or 0) <= covered then
        for _, key in ipairs({'a', 'ai', 'k', 'o'}) do redis.call('HDEL', p .. key, gw) end
      end
    end
  end
  redis.call('HDEL', p .. 'c', n)
  redis.call('UNLINK', p .. 'w:' .. n, p .. 'wt:' .. n, p .. 'wu:' .. n, p .. 'wv:' .. n, p .. 'wo:' .. n)
  return {'OK', 1}
end

-- A rebuild. Its leader calls, in this order, begin_rebuild, wipe, restore and remember_all, open_rebuild; then, while `r`
-- is not empty, remember_all and stand_in for gateways that were retired. A leader that died on the way is followed by one
-- that begins again; what it does too late is refused by its term.

-- begin_rebuild: shard, term, epoch. From now on nobody is approved.
local function begin_rebuild(_, argv)
  local p, term = '{' .. argv[1] .. '}:', tonumber(argv[2])
  if not whole(term) or not whole(tonumber(argv[3])) then return redis.error_reply('BADARG term, epoch') end
  if term < tonumber(redis.call('GET', p .. 't') or 0) then return {'FENCED'} end
  redis.call('MSET', p .. 't', argv[2], p .. 'e', argv[3] .. ':')
  return {'OK'}
end

-- wipe: shard, term, "epoch:", keys of the shard. Term, epoch, sign of life and region stay.
local function wipe(_, argv)
  local p = '{' .. argv[1] .. '}:'
  if not string.find(argv[3], '^%d+:$') then return redis.error_reply('BADARG not a rebuild') end
  local no = deposed(p, argv[2], argv[3])
  if no then return {no} end
  for i = 4, #argv do
    local key = argv[i]
    if string.sub(key, 1, #p) ~= p then return redis.error_reply('BADARG a key of another shard') end
    if key ~= p .. 't' and key ~= p .. 'e' and key ~= p .. 'ld' and key ~= p .. 'g' then redis.call('UNLINK', key) end
  end
  return {'OK'}
end

-- restore: shard, term, "epoch:", cmsgpack array, flat: "<site>:<visitor>", packed state.
local function restore(_, argv)
  local p = '{' .. argv[1] .. '}:'
  if not string.find(argv[3], '^%d+:$') then return redis.error_reply('BADARG not a rebuild') end
  local no = deposed(p, argv[2], argv[3])
  if no then return {no} end
  local visits = cmsgpack.unpack(argv[4])
  for i = 1, #visits, 2 do
    local key, v = p .. 'vs:' .. visits[i], unpack_visit(visits[i + 1])
    local there = redis.call('GET', key)
    local others = there and unpack_visits(cmsgpack.unpack(there)) or {}
    for at, other in ipairs(others) do
      if other.id == v.id then table.remove(others, at); break end               -- it was restored before
    end
    v.touched, v.packed = v.last, visits[i + 1]
    others[#others + 1] = v
    table.sort(others, function(a, b) return a.touched > b.touched end)
    redis.call('SET', key, pack_visits(others, 0), 'PX', VISIT_KEPT_MS)
  end
  return {'OK'}
end

-- remember_all: shard, term, "epoch:" or epoch:run, batches as for apply. Of retired gateways, from central's rows.
local function remember_all(_, argv)
  local p = '{' .. argv[1] .. '}:'
  local no = deposed(p, argv[2], argv[3])
  if no then return {no} end
  return remember_batches(p, argv[4])
end

-- open_rebuild: shard, term, "epoch:", run id, horizon ms, cmsgpack arrays of the gateways to wait for and of retired ones.
local function open_rebuild(_, argv)
  local p, horizon = '{' .. argv[1] .. '}:', tonumber(argv[5])
  if not string.find(argv[3], '^%d+:$') or not whole(horizon) then return redis.error_reply('BADARG not a rebuild') end
  local no = deposed(p, argv[2], argv[3])
  if no then return {no} end
  local waiting, retired = cmsgpack.unpack(argv[6]), cmsgpack.unpack(argv[7])
  in_chunks('SADD', p .. 'r', waiting)
  in_chunks('SADD', p .. 'rg', retired)
  redis.call('SET', p .. 'h', argv[5])                          -- a batch below it may have been counted, and no bit says so
  redis.call('SET', p .. 'e', argv[3] .. argv[4])
  return {'OK'}
end

-- stand_in: shard, term, epoch:run, gateways. They were retired, and what they counted is remembered.
local function stand_in(_, argv)
  local p = '{' .. argv[1] .. '}:'
  local no = deposed(p, argv[2], argv[3])
  if no then return {no} end
  for i = 4, #argv do
    redis.call('HDEL', p .. 'i', argv[i])
    redis.call('HDEL', p .. 'b', argv[i])
    redis.call('SADD', p .. 'rg', argv[i])
    redis.call('SREM', p .. 'r', argv[i])
  end
  return {'OK'}
end

-- A full Redis refuses what would fill it further, apply, and nothing else: settle is what empties it.
local function register_also_when_full(name, callback)
  redis.register_function{function_name = name, callback = callback, flags = {'allow-oom'}}
end
redis.register_function('tideline_apply', apply)
register_also_when_full('tideline_register', register)
register_also_when_full('tideline_retire', retire)
register_also_when_full('tideline_watermark', watermark)
register_also_when_full('tideline_remember', remember)
register_also_when_full('tideline_rebuilt', rebuilt)
register_also_when_full('tideline_approve', approve)
register_also_when_full('tideline_sign', sign)
register_also_when_full('tideline_barrier', barrier)
register_also_when_full('tideline_cut', cut)
register_also_when_full('tideline_durable', durable)
register_also_when_full('tideline_settle', settle)
register_also_when_full('tideline_begin_rebuild', begin_rebuild)
register_also_when_full('tideline_wipe', wipe)
register_also_when_full('tideline_restore', restore)
register_also_when_full('tideline_remember_all', remember_all)
register_also_when_full('tideline_open_rebuild', open_rebuild)
register_also_when_full('tideline_stand_in', stand_in)
