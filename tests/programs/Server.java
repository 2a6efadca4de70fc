import java.io.*;
import java.net.*;
import java.util.*;
import java.util.concurrent.*;

/** A line server with its state in a map, and a count of each connection; sixteen threads make garbage. */
public class Server {
    public static void main(String[] words) throws Exception {
        Map<String, String> state = new ConcurrentHashMap<>();
        for (int i = 0; i < 16; i++) {
            Thread thread = new Thread(() -> {
                try {
                    while (true) {
                        List<byte[]> garbage = new ArrayList<>();
                        for (int n = 0; n < 100; n++) garbage.add(new byte[1000]);
                        Thread.sleep(20);
                    }
                } catch (InterruptedException e) { }
            });
            thread.setDaemon(true);
            thread.start();
        }
        ExecutorService pool = Executors.newFixedThreadPool(4);
        ServerSocket server = new ServerSocket(Integer.parseInt(words[0]), 50, InetAddress.getByName("127.0.0.1"));
        while (true) {
            Socket client = server.accept();
            pool.submit(() -> {
                try (client) {
                    BufferedReader lines = new BufferedReader(new InputStreamReader(client.getInputStream()));
                    int count = 0;
                    for (String line; (line = lines.readLine()) != null; ) {
                        String[] said = line.split(" ");
                        if (said[0].equals("set")) { state.put("layer", said[1]); System.gc(); }
                        if (said[0].equals("count")) count++;
                        String answer = count > 0 ? "count " + count : "state " + state.get("layer");
                        client.getOutputStream().write((answer + "\n").getBytes());
                    }
                }
                return null;
            });
        }
    }
}
