--- The response phase of a chain: decided before the upstream is asked, or with its answer in hand.

local answers = require("gatewright.answer")
local apply = require("gatewright.apply")
local runner = require("gatewright.runner")

local _M = {}

--- Decide now what is to be done with an answer that has not come, if the chain's plugins don't look at it.
-- @return true, or `false` if they do (or there is nothing to do); nil and why if the request has to be refused
function _M.early(chain, host, ctx)
    local wanted, err = runner.wants(chain, "response")
    if not wanted then
        return wanted, err
    end
    if not chain.early then
        return false
    end
    local got
    got, err = runner.call(chain, "response", host, ctx)
    if not got then
        return nil, err
    end
    local early = ctx.early or {}
    early[#early + 1] = got
    ctx.early = early
    return true
end

--- Do what was decided; for header_filter_by_lua.
-- @return true; nil and why if the answer must not be sent as it is
function _M.finish(host, ctx)
    local early = ctx.early
    ctx.early = nil
    for _, got in ipairs(early or {}) do
        local ok, err = apply.run(host, ctx, got)
        if not ok then
            return nil, err
        end
        if ctx.status then
            ngx.status = ctx.status
        end
    end
    return true
end

--- Ask the upstream, let plugins change its answer, and send it.
-- @param host as `answer.host` makes it
-- @param fetch gives the upstream's answer, as those in `upstream` do
-- @return true; nil, why, and the status to refuse with, or none if something has been sent already
function _M.with_answer(chain, host, ctx, fetch)
    local answer, err, status = fetch()
    if not answer then
        return nil, err, status
    end
    ctx.answer = answer
    local ok = true
    if not ctx.early then
        local got
        got, err = runner.call(chain, "response", host, ctx)
        if got == nil then
            answer.close(false)
            return nil, err, 503
        end
        if got then
            ok, err = apply.run(host, ctx, got)
        end
    else
        for _, each in ipairs(ctx.early) do
            if ok then
                ok, err = apply.run(host, ctx, each)
            end
        end
        ctx.early = nil
    end
    if not ok then
        answer.close(false)
        return nil, err, 503
    end
    ok, err = answers.send(answer)
    answer.close(ok and not answer.reader)
    if not ok then
        return nil, err, not ngx.headers_sent and 502 or nil
    end
    return true
end

return _M
