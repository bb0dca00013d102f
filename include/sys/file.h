/*
 * file.h - files that are whole or not there: temp file, fsync, rename, fsync of the directory.
 */
#ifndef PGCUTOVER_SYS_FILE_H
#define PGCUTOVER_SYS_FILE_H

#include "base/strbuf.h"

#include <stdint.h>
#include <sys/types.h>

bool file_read(const char *path, struct strbuf *out, size_t ceiling, struct error *err) WARN_UNUSED;
/* Atomically replace path; keeps the mode and owner of an existing file, else mode. */
bool file_replace(const char *path, const void *data, size_t len, mode_t mode,
                  struct error *err) WARN_UNUSED;
bool file_write_all(int fd, const void *data, size_t len, const char *path,
                    struct error *err) WARN_UNUSED;
bool file_sync_dir(const char *dir, struct error *err) WARN_UNUSED;
bool file_make_dir(const char *dir,
                   struct error *err) WARN_UNUSED; /* parents too; existing is fine */
bool file_remove_tree(const char *path, struct error *err) WARN_UNUSED; /* missing is fine */
bool file_exists(const char *path);
/* Names in a directory without dotfiles, sorted bytewise, NULL-terminated; free with
 * file_free_list. */
bool file_list(const char *dir, char ***names, size_t *count, struct error *err) WARN_UNUSED;
void file_free_list(char **names);
bool file_tree_size(const char *path, int64_t *bytes, struct error *err) WARN_UNUSED;
bool file_free_space(const char *path, int64_t *bytes, struct error *err) WARN_UNUSED;

/* flock(2), exclusive, not waiting; the fd holds it until closed or the process ends. ERR_LOCKED
 * when another process has it. The fd is close-on-exec. */
bool file_lock(const char *path, int *fd, struct error *err) WARN_UNUSED;

#endif
