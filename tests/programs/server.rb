# A line server with a thread for each client and one that makes garbage.
require 'socket'
state = { 'layer' => 'none' }
lock = Mutex.new
Thread.new { loop { Array.new(1000) { |i| i.to_s }; sleep 0.02 } }
server = TCPServer.new('127.0.0.1', ARGV[0].to_i)
loop do
  Thread.new(server.accept) do |client|
    word, n = client.gets.to_s.split
    lock.synchronize { state['layer'] = n if word == 'set' }
    client.puts "state #{state['layer']}"
    client.close
  end
end
