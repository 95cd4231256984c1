/* A pre-fork server: fills its heap, forks a worker, which writes to so many pages of it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAGE 4096
#define PAGES 256

int main(int argc, char **argv)
{
    int written = argc > 1 ? atoi(argv[1]) : 0, up[2];
    char *heap = sbrk(PAGES * PAGE), word;
    memset(heap, 1, PAGES * PAGE);
    if (pipe(up))
        return 1;
    pid_t worker = fork();
    if (!worker) {
        close(STDOUT_FILENO);
        for (int i = 0; i < written; i++)
            heap[i * PAGE] = 2;
        if (write(up[1], "+", 1) != 1)
            return 1;
        pause();
    }
    if (read(up[0], &word, 1) != 1)
        return 1;
    printf("%d\n", worker);
    fflush(stdout);
    pause();
    return 0;
}
