%% A line server; its state is in a table of ets.
-module(server).
-export([main/1]).

main([Port]) ->
    ets:new(state, [named_table, public]),
    ets:insert(state, {layer, <<"none">>}),
    {ok, Listener} = gen_tcp:listen(list_to_integer(atom_to_list(Port)),
        [binary, {packet, line}, {active, false}, {reuseaddr, true}, {ip, {127, 0, 0, 1}}]),
    serve(Listener).

serve(Listener) ->
    {ok, Client} = gen_tcp:accept(Listener),
    case gen_tcp:recv(Client, 0) of
        {ok, <<"set ", N/binary>>} -> ets:insert(state, {layer, N});
        _ -> ok
    end,
    [{layer, State}] = ets:lookup(state, layer),
    gen_tcp:send(Client, <<"state ", State/binary, "\n">>),
    gen_tcp:close(Client),
    serve(Listener).
