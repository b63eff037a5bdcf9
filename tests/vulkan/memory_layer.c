/* A Vulkan layer that gives a software device its own memory, like that of a graphics card.
 *
 * Mesa's device has one memory, the RAM, and its driver refuses nothing. With this layer the device has two: one of
 * VK_MEMORY_LAYER_TOTAL bytes that only it can access, of which VK_MEMORY_LAYER_ENFORCED bytes can be allocated (by
 * default all of them; less simulates another program that took the rest), and the RAM, which it can copy from.
 * Allocations beyond that fail with VK_ERROR_OUT_OF_DEVICE_MEMORY. The peak use of its own memory is written to one
 * file per device, PID.NUMBER in the folder VK_MEMORY_LAYER_LOG.
 *
 * Only the functions that ggml calls are implemented; see "Layer Interface to the Loader" in the documentation of the
 * Vulkan loader.
 */

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <vulkan/vk_layer.h>
#include <vulkan/vulkan.h>

enum { OWN, RAM, TYPES };
enum { MOST_DEVICES = 16, LONGEST_WAIT_NS = 1000000 };

typedef struct Allocation {
    struct Allocation *next;
    VkDeviceMemory memory;
    VkDeviceSize size;
    int device;
} Allocation;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static PFN_vkGetInstanceProcAddr get_instance_function;
static PFN_vkGetDeviceProcAddr get_device_function;
static PFN_vkGetPhysicalDeviceMemoryProperties next_get_memory;
static PFN_vkGetPhysicalDeviceMemoryProperties2 next_get_memory2;
static PFN_vkCreateDevice next_create_device;
static VkDevice devices[MOST_DEVICES];
static VkDeviceSize used[MOST_DEVICES], most[MOST_DEVICES];
static int n_devices;
static Allocation *allocations;

#define NEXT(device, name) ((PFN_##name)get_device_function(device, #name))

static VkDeviceSize setting(const char *name, VkDeviceSize otherwise) {
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 10) : otherwise;
}

static VkDeviceSize total(void) { return setting("VK_MEMORY_LAYER_TOTAL", (VkDeviceSize)1 << 30); }

static VkDeviceSize enforced(void) { return setting("VK_MEMORY_LAYER_ENFORCED", total()); }

static int number_of(VkDevice device) {
    for (int number = 0; number < n_devices; number++) {
        if (devices[number] == device) {
            return number;
        }
    }
    return 0;
}

static void write_most(int number) {
    const char *folder = getenv("VK_MEMORY_LAYER_LOG");
    char path[4096];
    if (!folder || (size_t)snprintf(path, sizeof path, "%s/%d.%d", folder, (int)getpid(), number) >= sizeof path) {
        return;
    }
    FILE *file = fopen(path, "w");
    if (file) {
        fprintf(file, "%llu\n", (unsigned long long)most[number]);
        fclose(file);
    }
}

/* Both memory types map to the driver's only one, so only the type's number has to change. */
static void describe(VkPhysicalDeviceMemoryProperties *properties) {
    VkDeviceSize ram = properties->memoryHeaps[0].size;
    memset(properties, 0, sizeof *properties);
    properties->memoryTypeCount = properties->memoryHeapCount = TYPES;
    properties->memoryTypes[OWN] = (VkMemoryType){VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT, OWN};
    properties->memoryTypes[RAM] = (VkMemoryType){
        VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT | VK_MEMORY_PROPERTY_HOST_CACHED_BIT,
        RAM,
    };
    properties->memoryHeaps[OWN] = (VkMemoryHeap){total(), VK_MEMORY_HEAP_DEVICE_LOCAL_BIT};
    properties->memoryHeaps[RAM] = (VkMemoryHeap){ram, 0};
}

static VKAPI_ATTR void VKAPI_CALL get_memory(VkPhysicalDevice device, VkPhysicalDeviceMemoryProperties *properties) {
    next_get_memory(device, properties);
    describe(properties);
}

static VKAPI_ATTR void VKAPI_CALL get_memory2(VkPhysicalDevice device, VkPhysicalDeviceMemoryProperties2 *properties) {
    next_get_memory2(device, properties);
    describe(&properties->memoryProperties);
    for (VkBaseOutStructure *more = properties->pNext; more; more = more->pNext) {
        if (more->sType == VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_BUDGET_PROPERTIES_EXT) {
            VkPhysicalDeviceMemoryBudgetPropertiesEXT *budget = (VkPhysicalDeviceMemoryBudgetPropertiesEXT *)more;
            budget->heapBudget[RAM] = budget->heapBudget[0];
            budget->heapUsage[RAM] = budget->heapUsage[0];
            budget->heapBudget[OWN] = total();
            budget->heapUsage[OWN] = 0; /* of two devices that are one, each asks as if it were alone */
        }
    }
}

static VKAPI_ATTR void VKAPI_CALL get_requirements(VkDevice device, VkBuffer buffer, VkMemoryRequirements *needed) {
    NEXT(device, vkGetBufferMemoryRequirements)(device, buffer, needed);
    needed->memoryTypeBits = 1u << OWN | 1u << RAM;
}

static VKAPI_ATTR VkResult VKAPI_CALL get_host_pointer(VkDevice device, VkExternalMemoryHandleTypeFlagBits type,
                                                       const void *pointer,
                                                       VkMemoryHostPointerPropertiesEXT *properties) {
    VkResult result = NEXT(device, vkGetMemoryHostPointerPropertiesEXT)(device, type, pointer, properties);
    properties->memoryTypeBits = 1u << RAM;
    return result;
}

static VKAPI_ATTR VkResult VKAPI_CALL allocate(VkDevice device, const VkMemoryAllocateInfo *wanted,
                                               const VkAllocationCallbacks *callbacks, VkDeviceMemory *memory) {
    VkMemoryAllocateInfo info = *wanted;
    info.memoryTypeIndex = 0;
    PFN_vkAllocateMemory next = NEXT(device, vkAllocateMemory);
    if (wanted->memoryTypeIndex != OWN) {
        return next(device, &info, callbacks, memory);
    }
    VkResult result = VK_ERROR_OUT_OF_DEVICE_MEMORY;
    pthread_mutex_lock(&lock);
    int number = number_of(device);
    Allocation *kept = malloc(sizeof *kept);
    if (kept && used[number] + info.allocationSize <= enforced()) {
        result = next(device, &info, callbacks, memory);
    }
    if (result == VK_SUCCESS) {
        *kept = (Allocation){allocations, *memory, info.allocationSize, number};
        allocations = kept;
        used[number] += info.allocationSize;
        if (used[number] > most[number]) {
            most[number] = used[number];
            write_most(number);
        }
    } else {
        free(kept);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

static VKAPI_ATTR void VKAPI_CALL release(VkDevice device, VkDeviceMemory memory,
                                          const VkAllocationCallbacks *callbacks) {
    pthread_mutex_lock(&lock);
    for (Allocation **link = &allocations; *link; link = &(*link)->next) {
        if ((*link)->memory == memory) {
            Allocation *gone = *link;
            used[gone->device] -= gone->size;
            *link = gone->next;
            free(gone);
            break;
        }
    }
    pthread_mutex_unlock(&lock);
    NEXT(device, vkFreeMemory)(device, memory, callbacks);
}

/* ggml polls whether the device is done, which would occupy one of the cores that compute and compile. */
static VKAPI_ATTR VkResult VKAPI_CALL get_fence_status(VkDevice device, VkFence fence) {
    VkResult result = NEXT(device, vkWaitForFences)(device, 1, &fence, VK_TRUE, LONGEST_WAIT_NS);
    return result == VK_TIMEOUT ? VK_NOT_READY : result;
}

/* The loader passes the next layer, or the driver, in its own linked list. An instance's functions are looked up while
 * it is created: later the loader returns those of the first layer. */
static VKAPI_ATTR VkResult VKAPI_CALL create_instance(const VkInstanceCreateInfo *info,
                                                      const VkAllocationCallbacks *callbacks, VkInstance *instance) {
    VkLayerInstanceCreateInfo *link = (VkLayerInstanceCreateInfo *)info->pNext;
    while (link &&
           (link->sType != VK_STRUCTURE_TYPE_LOADER_INSTANCE_CREATE_INFO || link->function != VK_LAYER_LINK_INFO)) {
        link = (VkLayerInstanceCreateInfo *)link->pNext;
    }
    if (!link) {
        return VK_ERROR_INITIALIZATION_FAILED;
    }
    get_instance_function = link->u.pLayerInfo->pfnNextGetInstanceProcAddr;
    link->u.pLayerInfo = link->u.pLayerInfo->pNext;
    PFN_vkGetInstanceProcAddr get = get_instance_function;
    VkResult result = ((PFN_vkCreateInstance)get(NULL, "vkCreateInstance"))(info, callbacks, instance);
    if (result == VK_SUCCESS) {
        next_get_memory =
            (PFN_vkGetPhysicalDeviceMemoryProperties)get(*instance, "vkGetPhysicalDeviceMemoryProperties");
        next_get_memory2 =
            (PFN_vkGetPhysicalDeviceMemoryProperties2)get(*instance, "vkGetPhysicalDeviceMemoryProperties2");
        next_create_device = (PFN_vkCreateDevice)get(*instance, "vkCreateDevice");
    }
    return result;
}

static VKAPI_ATTR VkResult VKAPI_CALL create_device(VkPhysicalDevice physical, const VkDeviceCreateInfo *info,
                                                    const VkAllocationCallbacks *callbacks, VkDevice *device) {
    VkLayerDeviceCreateInfo *link = (VkLayerDeviceCreateInfo *)info->pNext;
    while (link &&
           (link->sType != VK_STRUCTURE_TYPE_LOADER_DEVICE_CREATE_INFO || link->function != VK_LAYER_LINK_INFO)) {
        link = (VkLayerDeviceCreateInfo *)link->pNext;
    }
    if (!link) {
        return VK_ERROR_INITIALIZATION_FAILED;
    }
    get_device_function = link->u.pLayerInfo->pfnNextGetDeviceProcAddr;
    link->u.pLayerInfo = link->u.pLayerInfo->pNext;
    VkResult result = next_create_device(physical, info, callbacks, device);
    pthread_mutex_lock(&lock);
    if (result == VK_SUCCESS && n_devices < MOST_DEVICES) {
        devices[n_devices++] = *device;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

static VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL instance_function(VkInstance instance, const char *name);
static VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL device_function(VkDevice device, const char *name);

static const struct {
    const char *name;
    PFN_vkVoidFunction function;
    int of_device;
} OURS[] = {
    {"vkGetInstanceProcAddr", (PFN_vkVoidFunction)instance_function, 0},
    {"vkCreateInstance", (PFN_vkVoidFunction)create_instance, 0},
    {"vkCreateDevice", (PFN_vkVoidFunction)create_device, 0},
    {"vkGetPhysicalDeviceMemoryProperties", (PFN_vkVoidFunction)get_memory, 0},
    {"vkGetPhysicalDeviceMemoryProperties2", (PFN_vkVoidFunction)get_memory2, 0},
    {"vkGetPhysicalDeviceMemoryProperties2KHR", (PFN_vkVoidFunction)get_memory2, 0},
    {"vkGetDeviceProcAddr", (PFN_vkVoidFunction)device_function, 1},
    {"vkGetBufferMemoryRequirements", (PFN_vkVoidFunction)get_requirements, 1},
    {"vkGetMemoryHostPointerPropertiesEXT", (PFN_vkVoidFunction)get_host_pointer, 1},
    {"vkAllocateMemory", (PFN_vkVoidFunction)allocate, 1},
    {"vkFreeMemory", (PFN_vkVoidFunction)release, 1},
    {"vkGetFenceStatus", (PFN_vkVoidFunction)get_fence_status, 1},
};

static PFN_vkVoidFunction ours(const char *name, int of_device) {
    for (size_t number = 0; number < sizeof OURS / sizeof *OURS; number++) {
        if (OURS[number].of_device >= of_device && !strcmp(OURS[number].name, name)) {
            return OURS[number].function;
        }
    }
    return NULL;
}

static VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL instance_function(VkInstance instance, const char *name) {
    PFN_vkVoidFunction found = ours(name, 0);
    return found || !get_instance_function ? found : get_instance_function(instance, name);
}

static VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL device_function(VkDevice device, const char *name) {
    PFN_vkVoidFunction found = ours(name, 1);
    return found ? found : get_device_function(device, name);
}

VKAPI_ATTR VkResult VKAPI_CALL vkNegotiateLoaderLayerInterfaceVersion(VkNegotiateLayerInterface *interface) {
    interface->loaderLayerInterfaceVersion = 2;
    interface->pfnGetInstanceProcAddr = instance_function;
    interface->pfnGetDeviceProcAddr = device_function;
    interface->pfnGetPhysicalDeviceProcAddr = NULL;
    return VK_SUCCESS;
}
