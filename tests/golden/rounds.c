// Process of the golden stack: no libc, so that the images are small and hold nothing of the machine.
// Each SIGUSR1 begins a round; every round writes the first page, one page of its own, and leaves the
// others alone.
#define SYS(n,a,b,c,d) ({ long r; register long r10 __asm__("r10") = (long)(d); __asm__ volatile("syscall":"=a"(r):"a"(n),"D"((long)(a)),"S"((long)(b)),"d"((long)(c)),"r"(r10):"rcx","r11","memory"); r; })
static volatile char data[8 * 4096] __attribute__((aligned(4096)));
void _start(void)
{
	unsigned long set = 1ul << (10 - 1);     // SIGUSR1
	SYS(14, 0, &set, 0, 8);                  // rt_sigprocmask: blocked, and waited for below
	for (int i = 0; i < 8; i++)
		data[i * 4096] = 0x10 + i;
	for (int round = 0;;)
		if (SYS(128, &set, 0, 0, 8) == 10) { // rt_sigtimedwait
			round++;
			data[0] = round;
			data[(round % 8) * 4096 + 1] = round;
		}
}
