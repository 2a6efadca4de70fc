// Process of the golden layer: no libc, so that the images are small and hold nothing of the machine.
#define SYS(n,a,b,c) ({ long r; __asm__ volatile("syscall":"=a"(r):"a"(n),"D"((long)(a)),"S"((long)(b)),"d"((long)(c)):"rcx","r11","memory"); r; })
static volatile char data[3*4096];
void _start(void)
{
	int p[2];
	SYS(22, p, 0, 0);            // pipe with six bytes in it
	SYS(1, p[1], "golden", 6);
	SYS(290, 7, 0, 0);           // eventfd at 7
	for (int i = 0; i < 3; i++)
		data[i * 4096] = i + 1;
	for (;;)
		SYS(34, 0, 0, 0);        // pause
}
