-- The argument, if any, is the size of a body to POST.
function init(args)
    if args[1] then
        wrk.method = "POST"
        wrk.body = string.rep("x", tonumber(args[1]))
        wrk.headers["Content-Type"] = "application/octet-stream"
    end
end

-- wrk's own distribution ends with 99%.
function done(summary, latency, requests)
    io.write(string.format("   99.9%%  %.2fus\n", latency:percentile(99.9)))
end
