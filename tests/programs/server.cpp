// A line server with a thread for each client, exceptions, a map, and threads that wait.
#include <arpa/inet.h>
#include <condition_variable>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>
#include <vector>

static std::mutex lock;
static std::condition_variable changed;
static std::map<std::string, std::string> state;
static thread_local int mine;

static void answer(int client) {
    try {
        char text[100];
        ssize_t n = read(client, text, sizeof text);
        if (n < 5) throw std::runtime_error("short");
        std::string line(text, n - 1);
        std::unique_lock<std::mutex> held(lock);
        if (line.substr(0, 3) == "set") state["layer"] = line.substr(4), changed.notify_all();
        std::string said = "state " + state["layer"] + "\n";
        if (write(client, said.data(), said.size()) < 0) throw std::runtime_error("gone");
    } catch (const std::exception &) {
    }
    close(client);
}

int main(int, char **words) {
    std::vector<std::thread> waiting;
    for (int i = 0; i < 8; i++)
        waiting.emplace_back([i] {
            mine = i;
            std::unique_lock<std::mutex> held(lock);
            for (;;) {
                changed.wait(held);
                if (mine != i) abort();
            }
        });
    int server = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    sockaddr_in name{};
    name.sin_family = AF_INET;
    name.sin_port = htons(std::stoi(words[1]));
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(server, reinterpret_cast<sockaddr *>(&name), sizeof name) || listen(server, 10)) return 1;
    for (;;) std::thread(answer, accept(server, nullptr, nullptr)).detach();
}
