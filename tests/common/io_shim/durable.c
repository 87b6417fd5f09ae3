// Part of shim.c: what a power cut would leave. A file for each inode, with the bytes it had when
// it was last synced; a listing for each directory, with the names it had.

static void durable_path(ino_t inode, const char *suffix, char *out) {
    snprintf(out, PATH_LEN, "%s/%lu%s", durable, (unsigned long)inode, suffix);
}

static void copy_durably(int fd, ino_t inode) {
    char from[64], to[PATH_LEN], bytes[1 << 16];
    durable_path(inode, ".dropped", to);
    if (!access(to, F_OK)) return;
    durable_path(inode, "", to);
    snprintf(from, sizeof from, "/proc/self/fd/%d", fd);
    int in = REAL(open)(from, O_RDONLY | O_CLOEXEC);
    int out = REAL(open)(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    ssize_t len;
    if (in < 0 || out < 0) escaped("a file that cannot be copied");
    while ((len = read(in, bytes, sizeof bytes)) > 0)
        if (REAL(write)(out, bytes, len) != len) escaped("a copy that cannot be written");
    close(in);
    close(out);
}

static void list_durably(int fd, ino_t inode) {
    char from[64], to[PATH_LEN];
    snprintf(from, sizeof from, "/proc/self/fd/%d", fd);
    durable_path(inode, ".dir", to);
    int out = REAL(open)(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    DIR *dir = opendir(from);
    if (out < 0 || !dir) escaped("a directory that cannot be listed");
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (entry->d_name[0] == '.') continue;
        char line[PATH_LEN];
        int len = snprintf(line, sizeof line, "%c %lu %s\n", entry->d_type == DT_DIR ? 'd' : 'f',
                           (unsigned long)entry->d_ino, entry->d_name);
        REAL(write)(out, line, len);
    }
    closedir(dir);
    close(out);
}

static void synced(int fd) {
    struct stat info;
    if (!durable || fstat(fd, &info)) return;
    if (S_ISDIR(info.st_mode)) list_durably(fd, info.st_ino);
    else copy_durably(fd, info.st_ino);
}

// The dirty pages are gone, and the next sync will not say so.
static void dropped(int fd) {
    struct stat info;
    char to[PATH_LEN];
    if (!durable || fstat(fd, &info)) return;
    durable_path(info.st_ino, ".dropped", to);
    close(REAL(open)(to, O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
}

// An inode number may have belonged to a file that is gone.
static void created(const char *path) {
    struct stat info;
    char old[PATH_LEN];
    const char *suffixes[] = {"", ".dir", ".dropped"};
    if (!durable || stat(path, &info)) return;
    for (int n = 0; n < 3; n++) {
        durable_path(info.st_ino, suffixes[n], old);
        REAL(unlink)(old);
    }
}
