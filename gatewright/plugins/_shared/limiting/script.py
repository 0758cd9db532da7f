"""The rules as Redis runs them: many requests' limits in one call of one script, which nobody comes between."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha1
from typing import Final

from gatewright.plugins._shared.limiting.rules import ALGORITHMS, Limit, State, Verdict

__all__ = ["SCRIPT", "SCRIPT_SHA", "Policy", "arguments", "verdicts"]

SCRIPT: Final = """
-- ARGV: the time (0: the server's own); how many policies, and of each: cost, 1 if it is counted in any case, how many
-- limits, and of each limit: algorithm, most, period, burst, interval; then the requests' policies: a policy's number
-- from 1, and how many requests in a row have it; and so on.
-- KEYS: one for each limit of each request. All times are microseconds.
-- Answer: for each request 1 or 0, and for each of its limits: 1 or 0, remaining, reset, retry.
local now = tonumber(ARGV[1])
if now == 0 then
  local clock = redis.call('TIME')
  now = clock[1] * 1000000 + clock[2]
end
local floor, max, min, format = math.floor, math.max, math.min, string.format
local function text(number) return format('%.0f', number) end
local function millis(micros) return text(floor(micros / 1000) + 1) end

-- Each gives: allowed, before {remaining, reset}, after {remaining, reset}, retry, and what writes it down.
local looks = {}

function looks.g(key, cost, most, period, burst, interval)
  local tolerance = interval * burst
  local full = max(tonumber(redis.call('GET', key) or 0), now)
  local new = full + interval * cost
  local wait = max(new - tolerance - now, 0)
  return wait == 0,
    {floor(max(tolerance - (full - now), 0) / interval), full - now},
    {floor(max(tolerance - (new - now), 0) / interval), new - now}, wait,
    function() redis.call('SET', key, text(new), 'PX', millis(new - now)) end
end

function looks.f(key, cost, most, period)
  local window = floor(now / period)
  local seen, used = string.match(redis.call('GET', key) or '', '^(%d+):(%d+)$')
  used = seen and tonumber(seen) == window and tonumber(used) or 0
  local reset = (window + 1) * period - now
  local allowed = used + cost <= most
  return allowed,
    {max(most - used, 0), used > 0 and reset or 0},
    {max(most - used - cost, 0), used + cost > 0 and reset or 0}, allowed and 0 or reset,
    function() redis.call('SET', key, text(window) .. ':' .. text(used + cost), 'PX', millis(reset)) end
end

function looks.s(key, cost, most, period)
  local window = floor(now / period)
  local seen, first, second = string.match(redis.call('GET', key) or '', '^(%d+):(%d+):(%d+)$')
  local before, used = 0, 0
  if seen and tonumber(seen) == window then
    before, used = tonumber(first), tonumber(second)
  elseif seen and tonumber(seen) == window - 1 then
    before = tonumber(second)
  end
  local left = (window + 1) * period - now
  local counted = math.ceil(before * left / period) + used
  local allowed = counted + cost <= most
  local retry = 0
  if not allowed then
    local room = most - used - cost
    if room >= 0 then
      retry = left - floor(room * period / before)
    else
      room = max(most - cost, 0)
      retry = left + (used > 0 and max(period - floor(room * period / used), 0) or 0)
    end
  end
  local function reset(mine)
    if before == 0 and mine == 0 then return 0 end
    return left + (mine > 0 and period or 0)
  end
  return allowed,
    {max(most - counted, 0), reset(used)}, {max(most - counted - cost, 0), reset(used + cost)}, retry,
    function()
      local value = text(window) .. ':' .. text(before) .. ':' .. text(used + cost)
      redis.call('SET', key, value, 'PX', millis(left + period))
    end
end

function looks.l(key, cost, most, period)
  local oldest = redis.call('LINDEX', key, 0)
  while oldest and tonumber(oldest) <= now - period do
    redis.call('LPOP', key)
    oldest = redis.call('LINDEX', key, 0)
  end
  local used = redis.call('LLEN', key)
  local allowed = used + cost <= most
  local retry, reset = 0, 0
  if used > 0 then reset = tonumber(redis.call('LINDEX', key, -1)) + period - now end
  if not allowed and used > 0 then
    retry = tonumber(redis.call('LINDEX', key, min(max(used + cost - most, 1), used) - 1)) + period - now
  end
  return allowed, {max(most - used, 0), reset}, {max(most - used - cost, 0), period}, retry,
    function()
      local at = text(now)
      for _ = 1, cost do redis.call('RPUSH', key, at) end
      redis.call('PEXPIRE', key, millis(period))
    end
end

local policies, at = {}, 3
for number = 1, tonumber(ARGV[2]) do
  local policy = {cost = tonumber(ARGV[at]), force = ARGV[at + 1] == '1', limits = {}}
  local count = tonumber(ARGV[at + 2])
  at = at + 3
  for place = 1, count do
    policy.limits[place] = {looks[ARGV[at]], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]),
      tonumber(ARGV[at + 4])}
    at = at + 5
  end
  policies[number] = policy
end

local out, key = {}, 1
while at <= #ARGV do
  local policy = policies[tonumber(ARGV[at])]
  local cost, limits = policy.cost, policy.limits
  for _ = 1, tonumber(ARGV[at + 1]) do
    local passes, plans = true, {}
    for place = 1, #limits do
      local limit = limits[place]
      local plan = {limit[1](KEYS[key], cost, limit[2], limit[3], limit[4], limit[5])}
      plans[place] = plan
      passes = passes and plan[1]
      key = key + 1
    end
    local counts = cost > 0 and (passes or policy.force)
    local last = #out + 1
    out[last] = passes and 1 or 0
    for place = 1, #limits do
      local plan = plans[place]
      local state = counts and plan[3] or plan[2]
      out[last + 1] = plan[1] and 1 or 0
      out[last + 2] = state[1]
      out[last + 3] = state[2]
      out[last + 4] = plan[4]
      last = last + 4
      if counts then plan[5]() end
    end
  end
  at = at + 2
end
return out
"""

SCRIPT_SHA: Final = sha1(SCRIPT.encode()).hexdigest()  # noqa: S324 - Redis's name for it


class Policy:
    """What is asked of a request, in the script's words; the same for many of them.

    Attributes:
        arguments: its part of `ARGV`.
        count: how many limits it has, and so keys.
        suffixes: what the keys end with. The braces before: all of a request's keys are in one slot of a Cluster.
    """

    __slots__ = ("arguments", "count", "suffixes")

    def __init__(self, limits: Sequence[Limit], cost: int, force: bool) -> None:
        self.arguments: list[str | int] = [cost, int(force), len(limits)]
        for limit in limits:
            letter = ALGORITHMS[limit.algorithm]
            self.arguments += letter, limit.most, limit.period, limit.burst, limit.interval
        self.count = len(limits)
        self.suffixes = [f"}}:{limit.label}" for limit in limits]

    def keys(self, key: str) -> list[str]:
        """The keys of a request's limits."""
        begin = "{" + key
        return [begin + suffix for suffix in self.suffixes]


def arguments(policies: Sequence[Policy], now: int = 0) -> list[str | int]:
    """`ARGV` for requests with these policies.

    Args:
        policies: each request's.
        now: the time in microseconds; 0 leaves it to the server, whose clock all share.
    """
    numbers: dict[int, int] = {}
    head: list[str | int] = [now, 0]
    tail: list[str | int] = []
    at, end = 0, len(policies)
    while at < end:
        begin, policy = at, policies[at]
        while at < end and policies[at] is policy:
            at += 1
        number = numbers.get(id(policy))
        if number is None:
            number = numbers[id(policy)] = len(numbers) + 1
            head += policy.arguments
        tail += number, at - begin
    head[1] = len(numbers)
    return head + tail


def verdicts(answer: Sequence[int], policies: Sequence[Policy]) -> list[Verdict]:
    """The answers to requests with these policies."""
    out, at = [], 0
    for policy in policies:
        end = at + 1 + 4 * policy.count
        states = [
            State(bool(answer[place]), answer[place + 1], answer[place + 2], answer[place + 3])
            for place in range(at + 1, end, 4)
        ]
        out.append(Verdict(bool(answer[at]), states))
        at = end
    return out
