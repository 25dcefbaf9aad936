/* Stands in for NVIDIA's libnvidia-ml.so.1: two GPUs, of which the second does not tell how busy it is. While the file that FAKE_NVML_HANG
   names is there, the driver does not return from a call, as one that hangs does not. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { SUCCESS = 0, NOT_SUPPORTED = 3 };

struct memory { unsigned version; unsigned long long total, reserved, free, used; };
struct utilization { unsigned gpu, memory; };

int nvmlInit_v2(void) { return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { (void)code; return "fake"; }

int nvmlSystemGetDriverVersion(char *text, unsigned length) {
    snprintf(text, length, "580.65.06");
    return SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = 2;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    *device = (void *)(uintptr_t)(index + 1);
    return SUCCESS;
}

int nvmlDeviceGetName(void *device, char *text, unsigned length) {
    snprintf(text, length, "Fake \"%u\"", (unsigned)(uintptr_t)device - 1);
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(void *device, struct memory *memory) {
    (void)device;
    /* Version 2 of the structure, as the real one insists on. */
    if (memory->version != (sizeof *memory | 2u << 24)) return 25;
    memory->total = 1000;
    memory->reserved = 50;
    memory->free = 300;
    memory->used = 650;
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(void *device, struct utilization *rates) {
    const char *hang = getenv("FAKE_NVML_HANG");
    while (hang && access(hang, F_OK) == 0) sleep(1);
    if ((uintptr_t)device == 2) return NOT_SUPPORTED;
    rates->gpu = 42;
    rates->memory = 7;
    return SUCCESS;
}
