/* One byte through a fresh MAP_SHARED mapping, in a process of its own.
 *
 *   touch FILE load|store OFFSET   ->  ok BYTE  |  SIGBUS CODE OFFSET LSB  |  errno NUMBER
 *
 * BYTE in hex; CODE is si_code; OFFSET is si_addr from the mapping's start; LSB is si_addr_lsb where
 * the code has one, else 0. What was stored is with the file system when this has ended.
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
static siginfo_t caught;

static void on_sigbus(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)context;
	caught = *info;
	siglongjmp(back, 1);
}

static int fail(void)
{
	printf("errno %d\n", errno);
	return 0;
}

int main(int argc, char **argv)
{
	struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO};
	struct stat found;

	if (argc != 4)
		return 2;
	int fd = open(argv[1], O_RDWR);
	if (fd < 0 || fstat(fd, &found))
		return fail();
	size_t offset = strtoul(argv[3], NULL, 10);
	size_t length = (size_t)found.st_size > offset ? (size_t)found.st_size : offset + 1;
	volatile unsigned char *map = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return fail();
	sigaction(SIGBUS, &action, NULL);
	if (sigsetjmp(back, 1)) {
		int has_lsb = caught.si_code == BUS_MCEERR_AR || caught.si_code == BUS_MCEERR_AO;
		printf("SIGBUS %d %ld %d\n", caught.si_code,
		       (long)((volatile unsigned char *)caught.si_addr - map),
		       has_lsb ? caught.si_addr_lsb : 0);
	} else if (!strcmp(argv[2], "store")) {
		map[offset] = 'w';
		printf("ok 77\n");
	} else {
		printf("ok %02x\n", map[offset]);
	}
	if (munmap((void *)map, length) || close(fd))
		return fail();
	return 0;
}
