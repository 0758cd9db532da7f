std = "ngx_lua"
max_line_length = 120
codes = true
files["lua/gatewright/kong.lua"] = { read_globals = { "kong" } }
files["lua/kong"] = { read_globals = { "kong" }, ignore = { "212/self" } }
