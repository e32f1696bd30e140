/* Users of NVRTC that were linked with it: the program, and a plugin with an NVRTC of its own. Each
 * prints where it asked and which NVRTC the image that it got is from. PLUGIN: the plugin. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int nvrtcGetCUBINSize(const int *program, size_t *bytes);
int nvrtcGetCUBIN(const int *program, char *out);
typedef int size_of(const int *program, size_t *bytes);
typedef int text_of(const int *program, char *out);

static void ask(const char *how, size_of *size, text_of *text)
{
    int program = 0;
    size_t bytes = 0;
    char *image = NULL;
    if (!size || !text || size(&program, &bytes) || !(image = calloc(1, bytes + 1)) ||
        text(&program, image))
        printf("%s: nothing\n", how);
    else
        for (size_t i = 0; i + 10 < bytes; i++)
            if (!memcmp(image + i, "// of NVRTC", 11))
                printf("%s: NVRTC %.2s%s\n", how, image + i + 12,
                       memcmp(image, "\x7f" "ELF", 4) ? "" : " linked");
    free(image);
}

#ifdef PLUGIN
void plugin(void);
void plugin(void)
{
    ask("plugin", nvrtcGetCUBINSize, nvrtcGetCUBIN);
    ask("plugin's default", (size_of *)dlsym(RTLD_DEFAULT, "nvrtcGetCUBINSize"),
        (text_of *)dlsym(RTLD_DEFAULT, "nvrtcGetCUBIN"));
}
#else
int main(int count, char **arguments)
{
    ask("linked", nvrtcGetCUBINSize, nvrtcGetCUBIN);
    ask("default", (size_of *)dlsym(RTLD_DEFAULT, "nvrtcGetCUBINSize"),
        (text_of *)dlsym(RTLD_DEFAULT, "nvrtcGetCUBIN"));
    void *all = dlopen(NULL, RTLD_NOW);
    ask("whole", (size_of *)dlsym(all, "nvrtcGetCUBINSize"),
        (text_of *)dlsym(all, "nvrtcGetCUBIN"));
    void *plugin = count > 1 ? dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    void (*run)(void) = plugin ? (void (*)(void))dlsym(plugin, "plugin") : NULL;
    if (run)
        run();
    return !run;
}
#endif
