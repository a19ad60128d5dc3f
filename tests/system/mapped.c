/* A program that knows nothing of daxmend: maps a file whole and does what stdin says.
 *
 *   load OFFSET LENGTH     -> the bytes as hex
 *   store OFFSET BYTE      -> ok            (BYTE in hex)
 *   sync                   -> ok | errno N  (msync)
 *   fsync                  -> ok | errno N
 *   inject SECTOR OFFSET   -> writes "SECTOR 8" to the control file in argv[3] and loads a byte at
 *                             once, as `load` does
 *
 * An access that faults answers "SIGBUS OFFSET CODE": where si_addr is in the mapping (it is
 * loaded and stored byte by byte, so this is exact), and si_code. Other signals kill it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static sigjmp_buf back;
static volatile char *volatile address;
static volatile int code;

static void on_sigbus(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)context;
	address = info->si_addr;
	code = info->si_code;
	siglongjmp(back, 1);
}

static void answer(int failed)
{
	if (failed)
		printf("errno %d\n", errno);
	else
		printf("ok\n");
}

int main(int argc, char **argv)
{
	int is_reader = argc > 2 && !strcmp(argv[2], "ro");
	struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_NODEFER};
	struct stat found;
	char line[128], word[16];
	int fd = open(argv[1], is_reader ? O_RDONLY : O_RDWR);

	if (fd < 0 || fstat(fd, &found))
		return perror(argv[1]), 1;
	volatile unsigned char *map =
		mmap(NULL, found.st_size, PROT_READ | (is_reader ? 0 : PROT_WRITE), MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return perror("mmap"), 1;
	sigaction(SIGBUS, &action, NULL);
	setvbuf(stdout, NULL, _IOFBF, 1 << 16);
	for (; fgets(line, sizeof line, stdin); fflush(stdout)) {
		unsigned long offset = 0, value = 0;
		sscanf(line, "%15s %lu", word, &offset);
		if (sigsetjmp(back, 1)) {
			printf(" SIGBUS %ld %d\n", (long)(address - (volatile char *)map), code);
			continue;
		}
		if (!strcmp(word, "load")) {
			sscanf(line, "%*s %*u %lu", &value);
			for (unsigned long at = offset; at < offset + value; at++)
				printf("%02x", map[at]);
			printf("\n");
		} else if (!strcmp(word, "store")) {
			sscanf(line, "%*s %*u %lx", &value);
			map[offset] = value;
			printf("ok\n");
		} else if (!strcmp(word, "inject")) {
			char text[64];
			int control = open(argv[3], O_WRONLY);
			int length = snprintf(text, sizeof text, "%lu 8\n", offset);
			sscanf(line, "%*s %*u %lu", &value);
			if (write(control, text, length) != length)
				return perror("write"), 1;
			printf("%02x", map[value]);
			printf("\n");
			close(control);
		} else if (!strcmp(word, "sync")) {
			answer(msync((void *)map, found.st_size, MS_SYNC));
		} else if (!strcmp(word, "fsync")) {
			answer(fsync(fd));
		} else {
			return 2;
		}
	}
	return 0;
}
