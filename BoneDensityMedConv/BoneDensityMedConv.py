"""BoneDensityMedConv in 3D Slicer: module, panel, logic and self-test. The work is done in BoneDensityMedConvLib."""

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

from BoneDensityMedConvLib import self_test
from BoneDensityMedConvLib.resources import resource_path
from BoneDensityMedConvLib.waiting import wait_for_result

HELP = """
<p>Reads bone density off a CT that was made for another reason: the first lumbar vertebra (L1) is shown in three
planes, its spongy bone is measured in Hounsfield units, and the MedConv network estimates the WHO class of the
T-score (normal, osteopenia, osteoporosis) with its probabilities.</p>
<p><b>Research use only. Not a medical device. Not to rule out low bone density.</b></p>
<p>Choose a CT, choose the segment that holds L1, press Analyse. Everything is computed on this computer; nothing is
sent anywhere. Sample data: Sample Data module, section BoneDensityMedConv.</p>
"""

ACKNOWLEDGEMENT = """
<p>Method: X. Qi, Z. Zhang, H. Zheng, et al. MedConv: Convolutions Beat Transformers on Long-Tailed Bone Density
Prediction. arXiv:2502.00631 (2025). This is an independent implementation; please cite the paper when you use it.</p>
<p>Sample CT: TotalSegmentator (J. Wasserthal et al., Radiology: Artificial Intelligence 2023), Apache-2.0.</p>
"""


class BoneDensityMedConv(ScriptedLoadableModule):
    """What Slicer shows about the module before it is opened."""

    def __init__(self, parent):
        super().__init__(parent)
        parent.title = _("BoneDensityMedConv")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Quantification")]
        parent.dependencies = []
        parent.contributors = ["SlicerBoneDensityMedConv contributors"]
        parent.helpText = _(HELP)
        parent.acknowledgementText = _(ACKNOWLEDGEMENT)
        self._set_icon_of_source_checkout()
        slicer.app.connect("startupCompleted()", registerSampleData)

    def _set_icon_of_source_checkout(self):
        # Slicer itself looks only beside the module, where the icon lies once the extension is installed.
        import qt

        self.parent.icon = qt.QIcon(str(resource_path("Icons/BoneDensityMedConv.png")))


def registerSampleData():
    """Offer the sample cases in the Sample Data module."""
    from BoneDensityMedConvLib import sample_data

    sample_data.register()


class BoneDensityMedConvWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Loads the .ui file and ties `QtPanel` to the logic's presenter and to the life of the scene."""

    def __init__(self, parent=None):
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.panel = None
        ScriptedLoadableModuleWidget.__init__(self, parent)

    def setup(self):
        super().setup()
        from BoneDensityMedConvLib.qt_panel import QtPanel

        self._uiWidget = slicer.util.loadUI(str(resource_path("UI/BoneDensityMedConv.ui")))
        self.layout.addWidget(self._uiWidget)
        self.ui = slicer.util.childWidgetVariables(self._uiWidget)
        self._uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = BoneDensityMedConvLogic()
        self.panel = QtPanel(self.ui, self.logic.presenter)
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneReplaced)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneReplaced)

    def cleanup(self):
        """The module is unloaded or Slicer ends."""
        self.removeObservers()
        if self.panel:
            self.panel.close()
        if self.logic:
            self.logic.presenter.close()

    def enter(self):
        """The person opens the module: the only CT and the only segmentation in the scene need no choosing."""
        self.logic.presenter.set_parameter_node(self.logic.getParameterNode())
        self.logic.offerOnlyCandidates()

    def onSceneReplaced(self, _caller, _event):
        """The scene was closed or loaded; the presenter has stopped its work and now gets the scene's own node."""
        self.logic.presenter.set_parameter_node(self.logic.getParameterNode())


class BoneDensityMedConvLogic(ScriptedLoadableModuleLogic):
    """For scripts: the same presenter that the panel uses, and `analyse` for a whole case at once."""

    def __init__(self, parent=None):
        super().__init__(parent)
        from BoneDensityMedConvLib.presenter import Presenter

        self.presenter = Presenter(self.getParameterNode())

    def getParameterNode(self):
        """The module's parameter node with typed fields, see BoneDensityMedConvLib.parameters."""
        from BoneDensityMedConvLib import parameters

        return parameters.wrap(super().getParameterNode())

    def offerOnlyCandidates(self):
        """Choose the CT, and the segmentation if it names L1, where none is chosen and the scene holds exactly one."""
        from BoneDensityMedConvLib import inputs

        chosen = self.presenter.parameters
        cts = [
            node
            for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
            if node.GetClassName() == "vtkMRMLScalarVolumeNode"
        ]
        segmentations = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
        if chosen.ct is None and len(cts) == 1:
            self.presenter.set_ct(cts[0])
        if chosen.segmentation is None and len(segmentations) == 1 and inputs.names_l1(segmentations[0]):
            self.presenter.set_segmentation(segmentations[0])

    def analyse(self, ctNode, segmentationNode, segmentId=None, timeout_s=600.0):
        """Analyse one case and wait for it; returns `view_model()["result"]`.

        Raises RuntimeError with the presenter's own message where there is no result, or after `timeout_s`.
        """
        self.presenter.set_ct(ctNode)
        self.presenter.set_segmentation(segmentationNode, segmentId)
        self.presenter.analyse()
        return wait_for_result(self.presenter, timeout_s)


class BoneDensityMedConvTest(self_test.Scenario, ScriptedLoadableModuleTest):
    """Run by Reload & Test and by ctest; the scenario is in BoneDensityMedConvLib.self_test."""

    makeLogic = BoneDensityMedConvLogic
